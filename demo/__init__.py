"""`make demo`: the whole service on one machine, with a generated video whose true answers are known."""
