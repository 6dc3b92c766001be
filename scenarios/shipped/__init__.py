"""The scenarios and studies that come with the package."""
