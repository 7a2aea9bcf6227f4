"""The page of app.py: what its people give, what they see, and what they take away."""
