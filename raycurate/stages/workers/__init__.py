"""What runs on the nodes: loader tasks and actors of the stages."""
