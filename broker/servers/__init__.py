"""MQTT brokers to start here: the embedded one, or a local Mosquitto."""
