"""The run directory: compose, check, create, launch, resume, status."""
