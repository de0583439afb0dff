"""What was found in a video, for people and other programs: JSON, CSV, WebVTT, and a page that shows the video."""
