"""Private Redis and RabbitMQ servers: on free ports, in a folder of their own, gone when they are stopped."""
