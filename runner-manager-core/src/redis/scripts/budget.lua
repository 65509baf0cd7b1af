-- Budgets: what all replicas together may ask of somebody outside.
--
-- Calls under way stand in `bu:<key>` by the end of their lease, calls that were begun in `bb:<key>` by that
-- time, and `bp:<key>` has the end of a pause. Each goes by itself when it says nothing any more.
--
-- Arguments: what to do, whose budget, and what that needs.
-- Reply: ok, then for take: granted and the permit's number, or wait and until when.

local verb, key = arg(), arg()
local under_way, begun, pause = P .. 'bu:' .. key, P .. 'bb:' .. key, P .. 'bp:' .. key

-- Keeps a key for at least so many microseconds.
local function keep(name, period)
  local left = math.ceil(period / 1000)
  if ask('PTTL', name) < left then
    ask('PEXPIRE', name, int(left))
  end
end

local function paused_until()
  local found = ask('GET', pause)
  return found and tonumber(found) or 0
end

-- When the next call may be begun for the rate's sake: 0 for at once.
local function rate_allows(calls, period)
  ask('ZREMRANGEBYSCORE', begun, '-inf', int(NOW - period))
  local over = ask('ZCARD', begun) + 1 - calls
  if over < 1 then
    return 0
  end
  local frees = ask('ZRANGE', begun, over - 1, over - 1, 'WITHSCORES')[2]
  return frees and tonumber(frees) + period or 0
end

-- The number of a call that is granted.
local function grant(concurrent, calls, period, lease)
  local number = next_number()
  stage_number()
  if concurrent then
    stage('ZADD', under_way, int(NOW + lease), number)
  end
  if calls then
    stage('ZADD', begun, int(NOW), number)
  end
  commit()
  if concurrent then
    keep(under_way, lease)
  end
  if calls then
    keep(begun, period)
  end
  return number
end

local verbs = {
  take = function()
    local concurrent, calls, period, lease, crowd = number_arg(), number_arg(), number_arg(), number_arg(), number_arg()
    ask('ZREMRANGEBYSCORE', under_way, '-inf', int(NOW))
    local free = paused_until()
    if calls then
      free = math.max(free, rate_allows(calls, period))
    end
    if concurrent and ask('ZCARD', under_way) >= concurrent then
      free = math.max(free, NOW + crowd)
    end
    if free > NOW then
      return { 'ok', 'wait', int(free) }
    end
    return { 'ok', 'granted', grant(concurrent, calls, period, lease) }
  end,
  give_back = function()
    ask('ZREM', under_way, arg())
    return { 'ok' }
  end,
  pause = function()
    local till = number_arg()
    if till > NOW and till > paused_until() then
      ask('SET', pause, int(till), 'PX', int(math.ceil((till - NOW) / 1000)))
    end
    return { 'ok' }
  end,
}

return answer(verbs[verb])
