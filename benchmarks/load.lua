-- Requests for wrk: every head is new, so that nothing about a request can be cached.
-- Arguments: "plain", "browser", "tls" (plain over TLS) or "handshake" (the same, a connection each), and a number at which to start counting.

local kind, count = "plain", 0

function init(args)
  kind, count = args[1], tonumber(args[2])
end

local function plain()
  count = count + 1
  return "GET /item/" .. count .. " HTTP/1.1\r\nHost: bench.example\r\n\r\n"
end

-- Thirteen header fields in the order and of the length that a browser sends; path, cookie and request id are new.
local BETWEEN_PATH_AND_COOKIE = " HTTP/1.1\r\n"
  .. "Host: shop.bench.example\r\n"
  .. "User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/130.0.0.0 Safari/537.36\r\n"
  .. "Accept: text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8\r\n"
  .. "Accept-Language: en-GB,en;q=0.7,de;q=0.3\r\n"
  .. "Accept-Encoding: gzip, deflate, br, zstd\r\n"
  .. "Referer: https://shop.bench.example/catalogue?sort=price&page=4\r\n"
  .. "Connection: keep-alive\r\n"
  .. "Sec-Fetch-Dest: document\r\n"
  .. "Sec-Fetch-Mode: navigate\r\n"
  .. "Sec-Fetch-Site: same-origin\r\n"
  .. "Upgrade-Insecure-Requests: 1\r\n"
  .. "Cookie: theme=dark; consent=1; session=8f14e45fceea167a5a36dedd4bea2543-"

local function browser()
  count = count + 1
  return "GET /app/catalogue/item/" .. count .. "?ref=list&position=17" .. BETWEEN_PATH_AND_COOKIE .. count
    .. "\r\nX-Request-ID: 7c9e6679-7425-40de-944b-" .. count .. "\r\n\r\n"
end

function request()
  if kind == "browser" then return browser() end
  if kind == "handshake" then return (plain():gsub("\r\n\r\n$", "\r\nConnection: close\r\n\r\n")) end
  return plain()
end

-- One line for the driver: requests, microseconds, latency percentiles in microseconds, errors.
function done(summary, latency, requests)
  local errors = summary.errors
  io.write(string.format(
    'RESULT {"requests": %d, "duration_us": %d, "p50_us": %d, "p99_us": %d, "failed": %d}\n',
    summary.requests, summary.duration, latency:percentile(50), latency:percentile(99),
    errors.connect + errors.read + errors.write + errors.status + errors.timeout
  ))
end
