"""`make demo`: the main job from end to end on one machine, with a generated video whose truth is known."""
