"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const $ = (id) => document.getElementById(id);
  const all = (selector, within = document) => [...within.querySelectorAll(selector)];
  const D = Math.max(data.duration, 1e-6);
  const video = $("video"), track = $("track"), scroll = $("scroll");
  let now = 0, playable = Boolean(video), panel = data.segments.length ? "segments" : "marks";
  let chosen = null; // {panel, i}
  const percent = (seconds) => `${(100 * Math.min(Math.max(seconds, 0), D)) / D}%`;
  const clock = (seconds, digits = 1) => {
    const unit = 10 ** digits, ticks = Math.round(Math.max(0, seconds) * unit);
    const whole = Math.floor(ticks / unit), h = Math.floor(whole / 3600), m = Math.floor(whole / 60) % 60, s = whole % 60;
    const two = (n) => String(n).padStart(2, "0");
    return (h ? `${h}:${two(m)}` : `${m}`) + `:${two(s)}` + (digits ? `.${String(ticks % unit).padStart(digits, "0")}` : "");
  };
  const make = (parent, className, text) => {
    const element = document.createElement("div");
    element.className = className;
    if (text) element.appendChild(document.createElement("bdi")).textContent = text;
    return parent.appendChild(element);
  };

  // Time: the video's own where it plays, else a pointer that shows the nearest picture of the strip.
  const nearest = (seconds) => {
    let best = 0;
    data.film.forEach((f, k) => { if (Math.abs(f[0] - seconds) < Math.abs(data.film[best][0] - seconds)) best = k; });
    return data.film[best];
  };
  function show(seconds) {
    now = seconds;
    $("head").style.left = percent(now);
    $("clock").textContent = `${clock(now)} / ${clock(D)}`;
    scroll.setAttribute("aria-valuenow", now.toFixed(1));
    scroll.setAttribute("aria-valuetext", clock(now));
    if (!playable && data.film.length) $("still").src = nearest(now)[1];
  }
  function seek(seconds) {
    const target = Math.min(Math.max(seconds, 0), D);
    if (playable) video.currentTime = target;
    show(target);
    reveal(target);
  }
  function reveal(seconds) {
    const x = (seconds / D) * track.clientWidth, left = scroll.scrollLeft, width = scroll.clientWidth;
    if (track.clientWidth > width && (x < left + 20 || x > left + width - 20)) scroll.scrollLeft = x - width / 3;
  }
  const span = () => {
    if (!chosen) return null;
    if (chosen.panel === "segments") return data.segments[chosen.i];
    const time = data.marks[chosen.i][0];
    return [Math.max(0, time - 1), Math.min(D, time + 1)];
  };
  if (video) {
    const refuse = () => {
      if (!playable) return;
      if (video.src.startsWith("data:")) { // some browsers play a blob, but no data URI
        const [head, body] = video.src.split(",", 2), type = head.slice(5).split(";")[0];
        const bytes = Uint8Array.from(atob(body), (c) => c.charCodeAt(0));
        video.src = URL.createObjectURL(new Blob([bytes], { type }));
        return;
      }
      playable = false;
      video.hidden = true;
      $("still").hidden = false;
      if (video.error && video.networkState === HTMLMediaElement.NETWORK_NO_SOURCE && !video.src.startsWith("blob:"))
        $("why").textContent += ", or the file is no longer where this page expects it";
      $("refused").hidden = false;
      show(now);
    };
    video.addEventListener("error", refuse);
    if (video.error) refuse();
    video.addEventListener("loadedmetadata", () => { if (!video.videoWidth) refuse(); else if (now) video.currentTime = now; });
    const follow = () => {
      const s = span();
      if ($("loop").checked && s && !video.paused && video.currentTime >= s[1]) video.currentTime = s[0];
      show(video.currentTime);
      if (!video.paused) { reveal(now); requestAnimationFrame(follow); }
    };
    for (const name of ["timeupdate", "seeked", "play"]) video.addEventListener(name, follow);
  }

  // Lists: a slider over the scores, chips over the classes, rows that can be chosen.
  const LISTS = {};
  function list(name, slider, output, scores, marked) {
    if (!scores.length) return;
    const rows = all(`#${name} tbody tr`), input = $(slider);
    const distinct = [...new Set(scores)].sort((a, b) => a - b);
    input.max = distinct.length - 1;
    input.disabled = distinct.length < 2;
    input.value = Math.max(0, distinct.findIndex((score) => score >= data.least[name]));
    LISTS[name] = { rows, visible: [] };
    const update = () => {
      const least = distinct[input.value];
      const off = new Set(all(".chip[aria-pressed=false]").map((chip) => Number(chip.dataset.class)));
      const counts = {};
      rows.forEach((row) => {
        const i = Number(row.dataset.i), above = scores[i] >= least;
        if (above && name === "segments") counts[data.segments[i][3]] = (counts[data.segments[i][3]] || 0) + 1;
        row.hidden = !above || (name === "segments" && off.has(data.segments[i][3]));
      });
      const visible = all(`#${name} tbody tr`).filter((row) => !row.hidden).map((row) => Number(row.dataset.i));
      LISTS[name].visible = visible;
      const text = `${visible.length} of ${scores.length}`;
      $(output).replaceChildren(Object.assign(document.createElement("b"), { textContent: data.scores[name][scores.indexOf(least)] }), ` · ${text}`);
      input.setAttribute("aria-valuetext", `${data.scores[name][scores.indexOf(least)]}, ${text} shown`);
      if (name === "segments") {
        all(".chip").forEach((chip) => { 
          const count = counts[chip.dataset.class] || 0;
          chip.querySelector("small").textContent = count;
          chip.classList.toggle("empty", !count);
        });
        document.querySelector("#segments .none").hidden = visible.length > 0;
      }
      roving(name);
      marked(visible);
    };
    LISTS[name].update = update;
    input.addEventListener("input", update);
    rows.forEach((row) => row.addEventListener("click", () => choose(name, Number(row.dataset.i))));
    $(name).addEventListener("keydown", (event) => {
      const step = { ArrowDown: 1, ArrowUp: -1, Home: -1e9, End: 1e9 }[event.key];
      if (!step || !event.target.closest("tbody")) return;
      event.preventDefault();
      const order = LISTS[name].visible, at = order.indexOf(Number(event.target.closest("tr").dataset.i));
      const to = order[Math.min(Math.max(at + step, 0), order.length - 1)];
      choose(name, to);
      row_of(name, to).querySelector("button").focus();
    });
  }
  const row_of = (name, i) => LISTS[name].rows.find((row) => Number(row.dataset.i) === i);
  function roving(name) { // one of the rows is reached by Tab, the others by arrows
    const { rows, visible } = LISTS[name];
    const stop = chosen && chosen.panel === name && visible.includes(chosen.i) ? chosen.i : visible[0];
    rows.forEach((row) => { row.querySelector("button").tabIndex = Number(row.dataset.i) === stop ? 0 : -1; });
  }
  function paint() {
    all(".chosen").forEach((element) => element.classList.remove("chosen"));
    if (!chosen) return;
    all(`[data-i="${chosen.i}"]`, $(chosen.panel)).forEach((row) => row.classList.add("chosen"));
    const within = chosen.panel === "segments" ? $("found") : $("lines");
    if (within) all(`[data-i="${chosen.i}"]`, within).forEach((bar) => bar.classList.add("chosen"));
  }
  function choose(name, i) {
    chosen = { panel: name, i };
    if (panel !== name) open(name);
    seek(name === "segments" ? data.segments[i][0] : data.marks[i][0]);
    roving(name);
    paint();
    const row = row_of(name, i), box = row.closest(".rows");
    const top = row.offsetTop - box.offsetTop, head = 34;
    if (top < box.scrollTop + head) box.scrollTop = top - head;
    else if (top + row.offsetHeight > box.scrollTop + box.clientHeight) box.scrollTop = top + row.offsetHeight - box.clientHeight;
  }
  function step(by) {
    if (!LISTS[panel] || !LISTS[panel].visible.length) return;
    const time = (i) => (panel === "segments" ? data.segments[i][0] : data.marks[i][0]);
    const order = [...LISTS[panel].visible].sort((a, b) => time(a) - time(b) || a - b);
    let at = chosen && chosen.panel === panel ? order.indexOf(chosen.i) : -1;
    if (at < 0) at = by > 0 ? order.findIndex((i) => time(i) > now) - 1 : order.length;
    if (at === -2) at = order.length - 1;
    choose(panel, order[(at + by + order.length) % order.length]);
  }
  function open(name) {
    panel = name;
    for (const other of ["segments", "marks"]) {
      const tab = $(`tab-${other}`);
      if (!tab) continue;
      $(other).hidden = other !== name;
      tab.setAttribute("aria-selected", String(other === name));
      tab.tabIndex = other === name ? 0 : -1;
    }
  }
  all("[role=tab]").forEach((tab) => {
    tab.addEventListener("click", () => open(tab.getAttribute("aria-controls")));
    tab.addEventListener("keydown", (event) => {
      if (!["ArrowLeft", "ArrowRight"].includes(event.key)) return;
      open(panel === "segments" ? "marks" : "segments");
      $(`tab-${panel}`).focus();
    });
  });
  all(".chip").forEach((chip) => chip.addEventListener("click", (event) => {
    const chips = all(".chip"), alone = event.altKey || event.shiftKey;
    if (alone) chips.forEach((other) => other.setAttribute("aria-pressed", String(other === chip)));
    else chip.setAttribute("aria-pressed", String(chip.getAttribute("aria-pressed") !== "true"));
    LISTS.segments.update();
  }));
  all("[data-sort]").forEach((button) => button.addEventListener("click", () => {
    const head = button.closest("th"), by = button.dataset.sort;
    const rising = head.getAttribute("aria-sort") === "none" ? by === "time" : head.getAttribute("aria-sort") !== "ascending";
    all("#segments th[aria-sort]").forEach((th) => th.setAttribute("aria-sort", "none"));
    head.setAttribute("aria-sort", rising ? "ascending" : "descending");
    const key = (row) => data.segments[row.dataset.i][by === "time" ? 0 : 2];
    const rows = [...LISTS.segments.rows].sort((a, b) => (rising ? 1 : -1) * (key(a) - key(b)) || a.dataset.i - b.dataset.i);
    document.querySelector("#segments tbody").append(...rows);
    LISTS.segments.update();
  }));

  // Time line: bars in as few rows as they need, the rows of a class together.
  function lay(parent, bars, tight) {
    parent.replaceChildren();
    const groups = new Map();
    bars.forEach((bar) => { if (!groups.has(bar.c)) groups.set(bar.c, []); groups.get(bar.c).push(bar); });
    let rows = 0;
    for (const group of groups.values()) {
      const ends = [];
      group.sort((a, b) => a.start - b.start || b.end - a.end);
      for (const bar of group) {
        let row = ends.findIndex((end) => end <= bar.start);
        if (row < 0) row = ends.push(0) - 1;
        ends[row] = bar.end;
        bar.row = rows + row;
      }
      rows += ends.length;
    }
    const dense = tight && rows > 9, height = dense ? 11 : 23;
    parent.classList.toggle("dense", dense);
    parent.style.height = `${Math.max(1, rows) * height + 2}px`;
    for (const bar of bars) {
      const element = make(parent, `seg c${bar.c % 12}`, bar.label);
      element.style.left = percent(bar.start);
      element.style.width = `${(100 * (bar.end - bar.start)) / D}%`;
      element.style.top = `${bar.row * height + 2}px`;
      element.style.setProperty("--s", bar.strength);
      element.title = bar.title;
      if (bar.i !== undefined) element.dataset.i = bar.i;
      element.addEventListener("click", (event) => { event.stopPropagation(); bar.choose(); });
    }
    slim();
  }
  const slim = () => all(".seg").forEach((bar) => bar.classList.toggle("slim", bar.offsetWidth < 26));
  const times = (start, end) => `${clock(start)} – ${clock(end)}`;
  if (data.truth.length) lay($("truth"), data.truth.map(([start, end, c]) => ({
    start, end, c, label: data.classes[c], strength: 30, title: `${data.classes[c]}, annotated, ${times(start, end)}`,
    choose: () => { chosen = null; paint(); seek(start); },
  })), false);
  const top = Math.max(...data.segments.map((s) => s[2]), 1e-12);
  list("segments", "least", "shown", data.segments.map((s) => s[2]), (visible) => {
    lay($("found"), visible.map((i) => {
      const [start, end, score, c] = data.segments[i];
      return {
        start, end, c, i, label: data.classes[c], strength: 14 + 40 * Math.max(0, score / top),
        title: `${data.classes[c]}, score ${data.scores.segments[i]}, ${times(start, end)}`,
        choose: () => choose("segments", i),
      };
    }), true);
    paint();
  });
  list("marks", "least-mark", "shown-marks", data.marks.map((m) => m[1]), (visible) => {
    $("lines").replaceChildren();
    for (const i of visible) {
      const element = make($("lines"), "tick");
      element.style.left = percent(data.marks[i][0]);
      element.dataset.i = i;
      element.title = `change at ${clock(data.marks[i][0])}, score ${data.scores.marks[i]}`;
      element.addEventListener("click", (event) => { event.stopPropagation(); choose("marks", i); });
    }
    paint();
  });
  for (const name of ["segments", "marks"]) if (LISTS[name]) LISTS[name].update();

  function draw() {
    const width = track.clientWidth;
    if (!width) return;
    const cells = Math.max(1, Math.min(400, Math.round(width / data.cell)));
    if (data.film.length && $("strip").childElementCount !== cells) {
      $("strip").replaceChildren(...Array.from({ length: cells }, (_, k) => {
        const img = new Image();
        img.alt = "";
        img.src = nearest(((k + 0.5) / cells) * D)[1];
        return img;
      }));
    }
    $("strip").hidden = !data.film.length;
    const steps = [0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200];
    const every = steps.find((s) => (s / D) * width >= 74) || 14400;
    $("ruler").replaceChildren();
    for (let k = 0; k * every < D && k < 2000; k++) {
      const label = $("ruler").appendChild(document.createElement("span"));
      label.textContent = clock(k * every, every < 1 ? 1 : 0);
      label.style.left = percent(k * every);
    }
    slim();
  }
  const most = Math.max(1, Math.min(150, D / 4));
  $("zoom").addEventListener("input", () => {
    const middle = now / D;
    track.style.width = `${100 * most ** ($("zoom").value / 100)}%`;
    draw();
    scroll.scrollLeft = middle * track.clientWidth - scroll.clientWidth / 2;
  });
  $("zoom").disabled = most < 1.5;
  let waiting = 0;
  new ResizeObserver(() => { cancelAnimationFrame(waiting); waiting = requestAnimationFrame(draw); }).observe(scroll);
  draw();

  // Pointer and keys.
  const at = (event) => ((event.clientX - track.getBoundingClientRect().left) / track.clientWidth) * D;
  let dragging = false;
  track.addEventListener("pointerdown", (event) => {
    if (event.target.closest(".seg, .tick") || event.pointerType === "touch") return;
    dragging = true;
    seek(at(event));
  });
  track.addEventListener("click", (event) => { if (!event.target.closest(".seg, .tick")) seek(at(event)); });
  addEventListener("pointerup", () => { dragging = false; });
  track.addEventListener("pointermove", (event) => {
    if (event.pointerType === "touch") return;
    if (dragging) seek(at(event));
    $("ghost").hidden = false;
    $("ghost").style.left = percent(at(event));
    $("ghost").firstChild.textContent = clock(at(event));
  });
  track.addEventListener("pointerleave", () => { $("ghost").hidden = true; });
  $("previous").addEventListener("click", () => step(-1));
  $("next").addEventListener("click", () => step(1));
  scroll.addEventListener("keydown", (event) => {
    const by = { ArrowLeft: -1, ArrowRight: 1, PageUp: -10, PageDown: 10, Home: -D, End: D }[event.key];
    if (!by) return;
    event.preventDefault();
    seek(now + by);
  });
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input, video")) return;
    if (event.key === "n") step(1);
    else if (event.key === "p") step(-1);
    else if (event.key === " " && playable && !event.target.closest("button, a")) {
      event.preventDefault();
      if (video.paused) video.play(); else video.pause();
    }
  });
  show(0);
})();
