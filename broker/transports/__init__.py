"""How messages travel: over MQTT, or within one process."""
