"""The same object from frame to frame of a video, by the package ``trackers``."""

import torch

from gridclip.prediction import Prediction


class Tracker:
    """Numbers what is found in the frames of one video, by ByteTrack. It goes by places and scores,
    not by names: an object keeps its number where its name changes."""

    def __init__(self, threshold: float, fps: float):
        """
        Args:
            threshold: a track begins with a detection of at least this score, and goes on with
                weaker ones.
            fps: frames a second. A track ends a second after its object was last found.

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
            frame_rate=fps,
            lost_track_buffer=round(fps),
            track_activation_threshold=threshold,
            high_conf_det_threshold=threshold,
        )

    def update(self, found: Prediction, time: float) -> Prediction:
        """What was found in the next frame, with ``track_ids`` from 1, and -1 of what is in no
        track yet: a track needs two frames.

        Args:
            time: of the frame, in seconds, later than that of the frame before.
        """
        detections = found.to_supervision()
        detections.data["index"] = torch.arange(len(found)).numpy()
        tracked = self._tracker.update(detections, timestamp=time)
        numbers = torch.full((len(found),), -1)
        if len(tracked):  # without any, it has no indices either
            numbers[tracked.data["index"]] = torch.as_tensor(tracked.tracker_id)
        numbers[numbers >= 0] += 1  # theirs are from 0
        result = found[torch.arange(len(found))]
        result.track_ids = numbers
        return result
