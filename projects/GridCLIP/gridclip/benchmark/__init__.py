"""Speed, memory and arithmetic of detectors, measured side by side."""
