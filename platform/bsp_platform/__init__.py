"""The platform: BSP on Ray Data, Ray Train, Ray Tune and MLflow. The only package that imports them."""
