"""The examples in the OpenAPI description; tests send the requests and validate the rest."""

from pydantic.config import JsonDict

_VIDEO_ID, _QUESTION_ID = "20261121-020851123-4f2a9c", "20261121-020851123-4f2a9c_20261121-021544871-9be01d"
_EVENT_ID = "20261121-021541870123"

VIDEO_REQUEST: JsonDict = {
    "url": "https://example.org/garden.mp4",
    "recorded_at": "2026-11-20T08:00:00Z",
    "title": "The garden in the morning",
}
QUESTION_REQUEST: JsonDict = {"question": "Is there a red circle?", "start": 60, "end": "2026-11-20T08:03:00Z"}

VIDEO: JsonDict = {
    "id": _VIDEO_ID,
    "kind": "url",
    "media": "video",
    "source": "https://example.org/garden.mp4",
    "title": "The garden in the morning",
    "status": "sampling",
    "created_at": "2026-11-21T02:08:51.123000Z",
    "recorded_at": "2026-11-20T08:00:00Z",
    "sample_fps": 1.0,
    "mode": "exact",
    "duration_s": 600.0,
    "width_px": 1280,
    "height_px": 720,
    "source_fps": 30.0,
    "codec": "h264",
    "source_type": None,
    "playable": None,
    "duplicate_of": None,
    "truncated": None,
    "problem": None,
    "progress": {
        "frames_sampled": 192,
        "frames_expected": 600,
        "frames_encoded": 128,
        "frames_failed": 0,
        "encoded_until_s": 128.0,
        "eta_s": 29.5,
        "complete": False,
    },
}
EVENT: JsonDict = {
    "id": _EVENT_ID,
    "type": "match",
    "stream_id": _VIDEO_ID,
    "at": "2026-11-21T02:15:40Z",
    "watch_id": "20261121-021201004-77c0de",
    "answer": "yes",
    "probability": 0.94,
    "evidence": [
        {
            "slot": 405,
            "t_s": 405.5,
            "at": "2026-11-21T02:15:36.500000Z",
            "score": 0.31,
            "picture": f"/v1/videos/{_VIDEO_ID}/frames/405.jpg",
        }
    ],
    "message": "Is somebody at the door? yes",
    "start_at": "2026-11-21T02:15:30Z",
    "end_at": "2026-11-21T02:15:40Z",
    "picture": f"/v1/videos/{_VIDEO_ID}/frames/405.jpg",
    "clip": None,
}
DELIVERY: JsonDict = {
    "id": _EVENT_ID,
    "stream_id": _VIDEO_ID,
    "watch_id": "20261121-021201004-77c0de",
    "status": "pending",
    "attempts": 2,
    "reason": "the receiver answers 502 Bad Gateway",
    "changed_at": "2026-11-21T02:15:51.020000Z",
    "next_try_at": "2026-11-21T02:16:01.020000Z",
}
QUESTION: JsonDict = {
    "id": _QUESTION_ID,
    "video_id": _VIDEO_ID,
    "question": "Is there a red circle?",
    "start_s": 60.0,
    "end_s": 180.0,
    "start_at": "2026-11-20T08:01:00Z",
    "end_at": "2026-11-20T08:03:00Z",
    "fusion": "focused",
    "partial": True,
    "options": {"temperature": 0.0, "top_p": 1.0, "max_tokens": None, "seed": 0},
    "status": "done",
    "waiting": None,
    "created_at": "2026-11-21T02:15:44.871000Z",
    "previous_question_id": None,
    "answer": {
        "text": "yes",
        "finish_reason": "stop",
        "start_s": 60.5,
        "end_s": 127.5,
        "start_at": "2026-11-20T08:01:00.500000Z",
        "end_at": "2026-11-20T08:02:07.500000Z",
        "frames": 68,
        "frames_missing": 0,
        "fusion": "focused",
        "fusion_frames": 32,
        "evidence": [
            {
                "slot": 71,
                "t_s": 71.5,
                "at": "2026-11-20T08:01:11.500000Z",
                "score": 0.21,
                "picture": f"/v1/videos/{_VIDEO_ID}/frames/71.jpg",
            }
        ],
        "encoded_until_s": 128.0,
        "video_complete": False,
        "tokens": {"text": 41, "vision": 68, "answer": 2},
        "timings": {"queue_s": 0.01, "fusion_s": 0.4, "prefill_s": 0.2, "first_token_s": 0.7, "total_s": 0.8},
    },
    "problem": None,
}

STREAM_REQUEST: JsonDict = {
    "url": "rtsp://192.168.1.20/stream1",
    "name": "Front door",
    "username": "viewer",
    "password": "a secret",
    "sample_fps": 1,
    "record": True,
    "retention": {"max_age_h": 168, "recordings_max_gb": 200},
}
STREAM_CHANGE: JsonDict = {"name": "Back door", "retention": {"max_age_h": 24}}
STREAM: JsonDict = {
    "id": _VIDEO_ID,
    "name": "Front door",
    "url": "rtsp://192.168.1.20/stream1",
    "transport": "tcp",
    "sample_fps": 1.0,
    "decode": "exact",
    "record": True,
    "retention": {"max_age_h": 168, "max_gb": None, "recordings_max_age_h": None, "recordings_max_gb": 200},
    "static_threshold": 0.0,
    "declared": False,
    "created_at": "2026-11-21T02:08:51Z",
    "state": "online",
    "since": "2026-11-21T02:08:53Z",
    "problem": None,
    "next_try_at": None,
    "host": "capture-garage-4711",
    "input_fps": 15.0,
    "codec": "h264",
    "width_px": 1280,
    "height_px": 720,
    "has_audio": False,
    "last_frame_at": "2026-11-21T03:08:51.500000Z",
    "frozen_since": None,
    "frames_sampled": 3597,
    "frames_static": 0,
    "frames_lost": 0,
    "reconnects": 1,
    "lag_s": 0.6,
    "gaps": [{"start": "2026-11-21T02:30:10Z", "end": "2026-11-21T02:30:13Z"}],
    "frames_bytes": 734003200,
    "recordings_bytes": 0,
    "removed_until": None,
    "recordings_removed_until": None,
}

_WATCH_ID = "20261121-020851123-4f2a9c_20261121-023011455-77b0aa"
WATCH_REQUEST: JsonDict = {
    "question": "Is somebody at the door?",
    "every_s": 10,
    "window_s": 30,
    "notify": "change",
    "match": {"equals": "yes"},
    "min_probability": 0.7,
    "cooldown_s": 60,
    "schedule": {"days": ["mon", "tue"], "start": "22:00", "end": "06:00", "timezone": "Europe/Berlin"},
    "webhook": {"url": "https://example.org/longwatch", "secret": "a long random text"},
}
WATCH_CHANGE: JsonDict = {"min_probability": 0.8, "hold": 2}
WATCH: JsonDict = {
    "id": _WATCH_ID,
    "stream_id": _VIDEO_ID,
    "question": "Is somebody at the door?",
    "every_s": 10.0,
    "window_s": 30.0,
    "notify": "change",
    "match": {"equals": "yes", "contains": None, "regex": None},
    "min_probability": 0.7,
    "cooldown_s": 60.0,
    "hold": 1,
    "schedule": {"days": ["mon", "tue"], "start": "22:00", "end": "06:00", "timezone": "Europe/Berlin"},
    "webhook": {"url": "https://example.org/longwatch", "signed": True},
    "created_at": "2026-11-21T02:30:11.455000Z",
    "last": {"at": "2026-11-21T02:40:09.500000Z", "answer": "no", "probability": 0.93, "event_id": None},
}
