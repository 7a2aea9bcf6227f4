"""A drawn detection world for a laptop: its pictures, its small CLIP, the demo, the experiments."""
