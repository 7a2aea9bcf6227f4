"""Speed, memory and arithmetic of GridCLIP beside other detectors, measured in one run."""
