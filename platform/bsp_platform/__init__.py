"""The platform: BSP on Ray Data, Ray Train, Ray Tune and MLflow. The only package that imports them.

Ray and MLflow read some settings from the environment when they are imported, so they are set here, before
any module of this package can import them. What the user has set wins.
"""

import os

_SETTINGS = {
    "RAY_AUTH_MODE": "token",  # explicit: nothing answers without the token
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",  # else each print of a worker shows twice
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",  # logs an error per run on machines without preemption
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",  # how soon a checkpoint counts as saved
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "300",  # slow, busy machines
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # MLflow and the tables record results
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C ends a sweep at once; the same command continues it
    "RAY_AIR_NEW_OUTPUT": "0",  # Tune's boxes; bsp_platform.sweep.live shows progress
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # the future default; silences a warning
    # For the processes that Ray starts: keep freed memory instead of handing it back and faulting it in again at
    # every training step (15% more clips/s on a CPU).
    "MALLOC_MMAP_THRESHOLD_": str(2**30),
    "MALLOC_TRIM_THRESHOLD_": str(2**32),
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "RAY_USAGE_STATS_ENABLED": "0",  # nothing is reported to anybody
    "DO_NOT_TRACK": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",  # bsp_platform.tracking tries again, and without making a run twice
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",  # seconds
}
for _name, _value in _SETTINGS.items():
    os.environ.setdefault(_name, _value)
