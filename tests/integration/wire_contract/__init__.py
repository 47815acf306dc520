"""The wire contract: REST over a real RabbitMQ and Redis, the embedded models, and webhooks to a receiver.

`tests/api` shows the same routes inside one process. Here stand the promises that need the whole platform: one file for each
verb. The folder is a package so that pytest starts the platform once for it (`scope="package"`).
"""
