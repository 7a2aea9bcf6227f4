"""The same object from frame to frame of a video, by the package ``trackers``."""

import torch

from gridclip.prediction import Prediction


class Tracker:
    """Numbers what is found in the frames of one video, by ByteTrack. It goes by places and scores,
    not by names: an object keeps its number where its name changes. A track ends when its object
    has not been found in 30 frames."""

    def __init__(self, threshold: float):
        """
        Args:
            threshold: a track begins with a detection of at least this score, and goes on with
                weaker ones.

        Raises:
            ModuleNotFoundError: the package is not installed; names how to.
        """
        try:
            from trackers import ByteTrackTracker
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                f"Tracking needs the package trackers ({error}): pip install -r "
                "requirements-app.txt, and with --no-deps -r requirements-no-deps.txt."
            ) from error
        self._tracker = ByteTrackTracker(
            track_activation_threshold=threshold, high_conf_det_threshold=threshold
        )

    def update(self, found: Prediction) -> Prediction:
        """What was found in the next frame, with ``track_ids`` from 1, and -1 of what is in no
        track yet: a track needs two frames."""
        detections = found.to_supervision()
        detections.data["index"] = torch.arange(len(found)).numpy()
        # Without times: a slow detector sees few frames of a webcam, and tracks would end by them.
        tracked = self._tracker.update(detections)
        numbers = torch.full((len(found),), -1)
        if len(tracked):  # without any, it has no indices either
            numbers[tracked.data["index"]] = torch.as_tensor(tracked.tracker_id)
        numbers[numbers >= 0] += 1  # theirs are from 0
        result = found[torch.arange(len(found))]
        result.track_ids = numbers
        return result
