"""The ports: what one part of the platform needs of another, as a `Protocol`. One module for each, named after it.

Every coroutine raises `contracts.errors.StoreUnavailable`, `BlobStoreUnavailable` or `BrokerUnavailable`
when its service is away or slow. Where a port has several implementations, one contract suite runs them all.

    BlobStore           images, by the hash of their bytes
    ClickStore          which hits of searches people chose
    Clock               time
    DeadLetters         messages that the broker has given up on
    IdempotencyStore    the jobs of idempotency keys
    ImageEngine         a model on a device
    ImageSigner         signatures of image files
    ImportStore         images that tenants have imported
    JobEvents           changes of jobs
    JobStore            job records, single-flight and the outbox
    KeyStore            API keys
    LookOutbox          held images that a model is to look at
    MemoryUseStore      memory of tenants' records
    ModelDirectory      served models and their workers
    PictureJudge        what is found in images
    PictureOutbox       images that the search index is owed
    Publications        files that are being published after a release
    Publisher           job messages on the broker
    QuotaLedger         accounts of API keys
    RebuildStore        how far rebuilds of search indexes have come
    Refunds             what blocked jobs are owed
    ResultCache         results, by their address
    ReviewStore         held images, and what people decided on them
    ScanStore           how far a policy was applied to what is stored
    SessionStore        people who are signed in
    SignedNames         names of signed image files
    UsageStore          usage by tenant and day
    WebhookStore        the outbox of webhooks
"""
