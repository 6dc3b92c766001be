"""Makes what a fleet of one's own needs: certificates or passwords, access list, configuration, bundles."""
