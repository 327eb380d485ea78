-- What wrk sends, and what it reports. WORKLOAD, ROWS, CURSORS, TOKEN and SEED come from the environment.

local workload = os.getenv("WORKLOAD")
local rows = tonumber(os.getenv("ROWS"))
local cursors = {}
local json = { ["Content-Type"] = "application/json" }
local sent = 0
local random = math.random

local token = os.getenv("TOKEN")

if token ~= "" then
  json["Authorization"] = "Bearer " .. token
  wrk.headers["Authorization"] = json["Authorization"]
end

for cursor in os.getenv("CURSORS"):gmatch("[^,]+") do
  cursors[#cursors + 1] = cursor
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
  return wrk.format("GET", "/items?limit=20&cursor=" .. cursors[random(#cursors)])
end

local function patch()
  local body = string.format('{"price":%d.%02d}', random(500), random(99))
  return wrk.format("PATCH", "/items/" .. random(rows), json, body)
end

-- Items whose entity tag is known from the last answer, and that no request under way changes.
local known = {}

local function patch_if_match()
  local item = table.remove(known)
  if item == nil then
    return get()
  end
  local body = string.format('{"price":%d.%02d}', random(500), random(99))
  return wrk.format("PATCH", "/items/" .. item.id, {
    ["Content-Type"] = json["Content-Type"], ["Authorization"] = json["Authorization"], ["If-Match"] = item.tag
  }, body)
end

local function note_tag(status, headers, body)
  local id = body:match('"id":%s*(%d+)')
  local tag = headers["ETag"] or headers["etag"]
  if status == 200 and id and tag then
    known[#known + 1] = { id = id, tag = tag }
  end
end

-- The same item, by handlers of `bench/choices.py`.
local function session()
  return wrk.format("GET", "/session/" .. random(rows))
end

local function alone()
  return wrk.format("GET", "/alone/" .. random(rows))
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
  patch = patch, patch_if_match = patch_if_match, mixed = mixed, session = session, alone = alone,
}

request = all[workload]
if workload == "patch_if_match" then
  response = note_tag
end

-- Latencies in microseconds, as wrk has them.
function done(summary, latency, requests)
  local e = summary.errors
  io.write(string.format(
    '\n{"requests": %d, "duration": %d, "p50": %d, "p99": %d, "p999": %d, "max": %d, "failed": %d}\n',
    summary.requests, summary.duration, latency:percentile(50), latency:percentile(99), latency:percentile(99.9),
    latency.max, e.connect + e.read + e.write + e.status + e.timeout))
end
