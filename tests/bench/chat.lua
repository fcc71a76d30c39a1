-- wrk's script for both servers: the same POST over and over, and the figures as one line of JSON.
wrk.method = "POST"
wrk.path = "/api/chat"
wrk.body = '{"message":"hello"}'
wrk.headers["Content-Type"] = "application/json"

function done(summary, latency)
    local errors = summary.errors
    io.write(string.format(
        '{"requests": %d, "microseconds": %d, "p50": %d, "p99": %d, "max": %d, "failed": %d}\n',
        summary.requests, summary.duration,
        latency:percentile(50), latency:percentile(99), latency.max,
        errors.connect + errors.read + errors.write + errors.status + errors.timeout))
end
