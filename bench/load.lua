-- What wrk sends, and what it reports. WORKLOAD, ROWS, CURSOR, TOKEN and SEED come from the environment.

local workload = os.getenv("WORKLOAD")
local rows = tonumber(os.getenv("ROWS"))
local cursor = os.getenv("CURSOR")
local json = { ["Content-Type"] = "application/json" }
local sent = 0
local random = math.random

local token = os.getenv("TOKEN")

if token ~= "" then
  json["Authorization"] = "Bearer " .. token
  wrk.headers["Authorization"] = json["Authorization"]
end

math.randomseed(tonumber(os.getenv("SEED")))

local function get()
  return wrk.format("GET", "/items/" .. random(rows))
end

local function hot()
  return wrk.format("GET", "/items/" .. math.floor(rows / 2))
end

local function item()
  return string.format('{"name":"Lamp%d","price":%d.%02d,"description":"A lamp"}', random(1e6), random(500), random(99))
end

local function create()
  return wrk.format("POST", "/items", json, item())
end

local function create_once()
  sent = sent + 1
  local key = string.format("bench-%s-%d-%d", os.getenv("SEED"), sent, random(1e9))
  return wrk.format("POST", "/items", {
    ["Content-Type"] = json["Content-Type"], ["Authorization"] = json["Authorization"], ["Idempotency-Key"] = key
  }, item())
end

local function list()
  return wrk.format("GET", "/items?limit=20")
end

local function list_deep()
  return wrk.format("GET", "/items?limit=20&cursor=" .. cursor)
end

local function patch()
  local body = string.format('{"price":%d.%02d}', random(500), random(99))
  return wrk.format("PATCH", "/items/" .. random(rows), json, body)
end

local function mixed()
  local die = random(100)
  if die <= 90 then
    return get()
  elseif die <= 99 then
    return list()
  end
  return create()
end

local all = {
  get = get, hot = hot, create = create, create_once = create_once, list = list, list_deep = list_deep,
  patch = patch, mixed = mixed,
}

request = all[workload]

-- Latencies in microseconds, as wrk has them.
function done(summary, latency, requests)
  local e = summary.errors
  io.write(string.format(
    '\n{"requests": %d, "duration": %d, "p50": %d, "p99": %d, "p999": %d, "max": %d, "failed": %d}\n',
    summary.requests, summary.duration, latency:percentile(50), latency:percentile(99), latency:percentile(99.9),
    latency.max, e.connect + e.read + e.write + e.status + e.timeout))
end
