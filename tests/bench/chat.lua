-- wrk's script for all servers: the same POST over and over, and the figures as one line of JSON. With `upload FILE` as
-- its arguments it uploads that file, with `get PATH` it asks for that path.
wrk.method = "POST"
wrk.path = "/api/chat"

function init(arguments)
    if arguments[1] == "get" then
        wrk.method = "GET"
        wrk.path = arguments[2]
    elseif arguments[1] == "upload" then
        local file = assert(io.open(arguments[2], "rb"))
        local content = file:read("*a")
        file:close()
        wrk.headers["Content-Type"] = "multipart/form-data; boundary=between-the-parts"
        wrk.body = '--between-the-parts\r\nContent-Disposition: form-data; name="message"\r\n\r\nlook'
            .. '\r\n--between-the-parts\r\nContent-Disposition: form-data; name="file"; filename="picture.png"\r\n'
            .. "Content-Type: image/png\r\n\r\n" .. content .. "\r\n--between-the-parts--\r\n"
    else
        wrk.headers["Content-Type"] = "application/json"
        wrk.body = '{"message":"hello"}'
    end
end

function done(summary, latency)
    local errors = summary.errors
    io.write(string.format(
        '{"requests": %d, "microseconds": %d, "p50": %d, "p99": %d, "max": %d, "failed": %d}\n',
        summary.requests, summary.duration,
        latency:percentile(50), latency:percentile(99), latency.max,
        errors.connect + errors.read + errors.write + errors.status + errors.timeout))
end
