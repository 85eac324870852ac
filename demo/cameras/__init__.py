"""Serves video files as live cameras: RTSP, MPEG-TS and MJPEG over HTTP. Knows nothing of Longwatch."""
