"""Many runs of the stages at once, on Ray Tune."""
