"""Private Redis and RabbitMQ servers, each on free ports and with its own folder. They end with `stop`."""
