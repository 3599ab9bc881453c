"""Serving an exported graph over HTTP: the Open Inference Protocol, pictures, and a page, on Ray Serve.

    interface   what a model takes and gives
    limits      what is too much
    problem     what a client did wrong, as a status and a sentence
    inference   requests of the Open Inference Protocol
    inferred    their answers
    extensions  what Triton's tools ask besides
    hosts       names by which a server may be called
    exchange    a request as it comes in, a reply as it goes out
    intake      bodies of requests, read within limits
    encoding    bodies that are compressed
    multipart   the file in a form
    workers     threads, for what takes its time
    pictures    picture files, alone or in a form, and the committee's answer for people
    batcher     requests that wait for the network together
    metrics     what Prometheus reads, summed over replicas
    app         all of it as one ASGI application
    served      the session behind it, and another that takes its place
    endpoints   what can be done, path by path
    http1       connections, with limits to headers
    listener    the application on a port, in a thread
    replica     a session, an application and a port, as Ray Serve starts them
    faults      its errors, for whoever runs it
    board       what replicas and the command tell each other
    models      copies of the served files, which replicas load
    cluster     Ray, and the deployment on it
    server      all of it as the command sees it
    reaper      nothing stays behind
    pidfile     the file that says which process the command is
    foreground  signals and streams of the command

Everything above `replica` runs without Ray.
"""
