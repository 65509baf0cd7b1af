-- Budgets: what all replicas together may ask of somebody outside.
--
-- Calls under way stand in `bu:<key>` by the end of their lease, calls that were begun in `bb:<key>` by that
-- time, and `bp:<key>` has the end of a pause. Each goes by itself when it says nothing any more. Callers may have
-- different rates: before all times in `bb:<key>`, `longest` stands by the longest period, for which calls are remembered.
--
-- Arguments: what to do, and what that needs. For take: for how long the call is counted as under way, and how long one
-- waits where too many are; then each of its bounds: whose budget, how many may be under way or empty, and how many may
-- be begun in how long a period or twice empty. For pause: whose budget, and until when.
-- Reply: ok, then for take: granted and the permit's number, or wait, until when and for which of the bounds (from 0).

-- The most calls that a rate may name (`Rate::MOST_CALLS`): older ones tell nobody anything.
local MOST_CALLS = 20000

local function pause_of(key)
  return P .. 'bp:' .. key
end

-- Keeps a key for at least so many microseconds.
local function keep(name, period)
  local left = math.ceil(period / 1000)
  if ask('PTTL', name) < left then
    ask('PEXPIRE', name, int(left))
  end
end

local function paused_until(key)
  local found = ask('GET', pause_of(key))
  return found and tonumber(found) or 0
end

-- When the next call may be begun for the rate's sake: of the last calls, as many as it allows, the first must be out of
-- the period.
local function rate_allows(bound)
  local first = int(-bound.calls)
  local begun = ask('ZRANGE', bound.begun, first, first, 'WITHSCORES')[2]
  return begun and tonumber(begun) + bound.period or 0
end

-- Forgets the calls that no rate asks for any more, and the key itself after the last one.
local function forget(bound)
  local longest = tonumber(ask('ZSCORE', bound.begun, 'longest') or 0)
  if longest < bound.period then
    longest = bound.period
    ask('ZADD', bound.begun, int(longest), 'longest')
  end
  ask('ZREMRANGEBYSCORE', bound.begun, '(' .. int(longest), int(NOW - longest))
  -- In the longest period may be more calls than any rate names only where somebody else has a shorter one.
  if longest > bound.period then
    ask('ZREMRANGEBYRANK', bound.begun, 1, int(-MOST_CALLS - 1))
  end
  keep(bound.begun, longest)
end

local function is_crowded(bound)
  ask('ZREMRANGEBYSCORE', bound.under_way, '-inf', int(NOW))
  return ask('ZCARD', bound.under_way) >= bound.concurrent
end

local function bound_arg()
  local key = arg()
  return {
    key = key, under_way = P .. 'bu:' .. key, begun = P .. 'bb:' .. key,
    concurrent = number_arg(), calls = number_arg(), period = number_arg(),
  }
end

-- When a bound lets a call pass: not after the present time for at once.
local function free_at(bound, crowd)
  local free = paused_until(bound.key)
  if bound.calls then
    free = math.max(free, rate_allows(bound))
  end
  if bound.concurrent and is_crowded(bound) then
    free = math.max(free, NOW + crowd)
  end
  return free
end

-- The number of a call that is granted.
local function grant(bounds, lease)
  local number = next_number()
  stage_number()
  for _, bound in ipairs(bounds) do
    if bound.concurrent then
      stage('ZADD', bound.under_way, int(NOW + lease), number)
    end
    if bound.calls then
      stage('ZADD', bound.begun, int(NOW), number)
    end
  end
  commit()
  for _, bound in ipairs(bounds) do
    if bound.concurrent then
      keep(bound.under_way, lease)
    end
    if bound.calls then
      forget(bound)
    end
  end
  return number
end

local verbs = {
  take = function()
    local lease, crowd, bounds = number_arg(), number_arg(), {}
    local latest, which = NOW, nil
    while has_arg() do
      local bound = bound_arg()
      local free = free_at(bound, crowd)
      if free > latest then
        latest, which = free, #bounds
      end
      bounds[#bounds + 1] = bound
    end
    if which then
      return { 'ok', 'wait', int(latest), int(which) }
    end
    return { 'ok', 'granted', grant(bounds, lease) }
  end,
  pause = function()
    local key, till = arg(), number_arg()
    if till > NOW and till > paused_until(key) then
      ask('SET', pause_of(key), int(till), 'PX', int(math.ceil((till - NOW) / 1000)))
    end
    return { 'ok' }
  end,
}

return function()
  return verbs[arg()]()
end
