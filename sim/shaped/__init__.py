"""Real MQTT over modelled links."""
