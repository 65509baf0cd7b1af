-- Ends or extends a claim.
--
-- Arguments: what to do; the claim's key and number; then what that needs.
-- Reply: ok, and the new end where the claim was extended.

-- How many of the oldest a burial forgets where there are too many, so that what was more shrinks.
local SPARE = 2

local function bury(entry)
  local keep, reason = number_arg(), arg()
  local hold = entry.held
  if not entry.waiting then
    local fields = { entry.lane, int(NOW), int(hold.from.attempts + 1) }
    stage('HSET', P .. 'd', entry.key, pack(fields, entry.task .. '\n' .. reason))
    stage('ZADD', P .. 'dt', int(NOW), entry.key)
  end
  finish(entry, nil)
  -- What is forgotten afterwards is checked with the rest: a refusal must not come when this is done.
  expect('hash', P .. 'd')
  expect('zset', P .. 'dt')
  commit_and_wake()
  local beyond = ask('ZCARD', P .. 'dt') - keep
  if beyond > 0 then
    for _, oldest in ipairs(ask('ZRANGE', P .. 'dt', 0, math.min(beyond, SPARE) - 1)) do
      stage('ZREM', P .. 'dt', oldest)
      stage('HDEL', P .. 'd', oldest)
    end
    commit()
  end
end

local verbs = {
  ack = function(entry)
    finish(entry, nil)
    commit_and_wake()
  end,
  -- Tried again at a time, to which no push can bring it forward.
  retry = function(entry)
    local due, from = math.max(number_arg(), NOW), entry.held.from
    finish(entry, wait_again(from, due, due, from.attempts + 1))
    commit_and_wake()
  end,
  release = function(entry)
    finish(entry, entry.held.from)
    commit_and_wake()
  end,
  extend = function(entry)
    local hold = entry.held
    local till = NOW + number_arg()
    entry.held = { number = hold.number, till = till, from = hold.from }
    touch(entry)
    commit_and_wake()
    return int(till)
  end,
  bury = bury,
}

return function()
  local verb, key, number = arg(), arg(), arg()
  return { 'ok', verbs[verb](held_entry(key, number)) }
end
