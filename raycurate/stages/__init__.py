"""The thin layer that feeds the methods: one file per arrow of the data's way. Only this room imports Ray."""
