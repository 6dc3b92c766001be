"""Starts an MQTT broker on this machine: the embedded one, or Mosquitto."""
