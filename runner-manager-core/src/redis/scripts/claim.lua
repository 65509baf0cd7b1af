-- Claims tasks of a lane that are due.
--
-- Arguments: whether to look only where this script has woken somebody on the lane (1); the lane; how many at most; how
-- many of the lane may be held in all, empty for any number; the lease in microseconds; whether nobody else of the
-- process waits on this lane (1).
-- Reply: asleep, where it did not look. Otherwise ok; the microseconds until something happens next on the lane, empty
-- for never; whether as many are held as may be (1); then for each claim its key, number, attempt, end, how long the
-- task was due, and the task.

-- How many ended holds are put back at most: the rest comes with the next claim, so that this one is short.
local MOST_ENDED = 200

-- How long those who wait go without a look at most, in microseconds: as `LOOK_AT_LEAST` in wake.rs.
local LOOK_AT_LEAST = 2000000

local function end_leases(holds)
  local ended = ask('ZRANGEBYSCORE', holds, '-inf', int(NOW), 'LIMIT', 0, MOST_ENDED)
  for _, key in ipairs(ended) do
    local entry = entry_of(key)
    local hold = entry.held or refuse('index', holds, key)
    finish(entry, wait_again(hold.from, math.min(hold.till, NOW), nil, hold.from.attempts + 1))
  end
  stage_entries()
  commit()
end

local function take(set, member, lease, reply)
  local key = string.sub(member, 17)
  local entry = entry_of(key)
  local from = entry.waiting
  if not from or entry.held then
    refuse('index', set, member)
  end
  local hold = { number = next_number(), till = NOW + lease, from = from }
  entry.waiting, entry.held = nil, hold
  touch(entry)
  local parts = {
    key, hold.number, int(from.attempts + 1), int(hold.till), int(math.max(NOW - from.due, 0)), entry.task,
  }
  for _, part in ipairs(parts) do
    reply[#reply + 1] = part
  end
end

-- When something happens next on the lane. While no more may be held, only the end of a hold counts.
local function next_event(lane, full)
  local sets = { lane_key('h', lane) }
  for priority = 0, full and -1 or 2 do
    sets[#sets + 1] = waiting_key(lane, priority)
  end
  local first
  for _, set in ipairs(sets) do
    local score = tonumber(ask('ZRANGE', set, 0, 0, 'WITHSCORES')[2])
    first = score and math.min(first or score, score) or first
  end
  return first
end

-- Remembers whether those who wait are waiting for the end of a hold.
local function note_full(lane, full)
  if full then
    ask('HSET', P .. 'f', lane, '1')
  else
    ask('HDEL', P .. 'f', lane)
  end
end

-- Wakes those who have to look once this claim is made, which leaves an event of the lane behind.
local function hand_on(lane, event, claimed, full, alone)
  if event and event <= NOW then
    add_tokens(lane, 1)
  elseif claimed > 0 and not full then
    -- Whoever was to be woken would find nothing. Only who kept the time alone, and leaves, has somebody else of another
    -- process keep it, if these do not look before that by themselves.
    ask('LTRIM', lane_key('k', lane), 1, 0)
    if event and alone and event - NOW < LOOK_AT_LEAST then
      add_tokens(lane, 1)
    end
  end
end

return function()
  local only_if_woken, lane = arg() == '1', arg()
  if only_if_woken and not woken[lane] then
    return { 'asleep' }
  end
  local most, bound, lease = number_arg(), number_arg(), number_arg()
  local alone = arg() == '1'
  local holds = lane_key('h', lane)
  end_leases(holds)
  local room = bound and math.max(bound - ask('ZCARD', holds), 0) or math.huge
  local reply, claimed = { 'ok', '', '' }, 0
  for priority = 0, 2 do
    local left = math.min(most, room) - claimed
    if left > 0 then
      local set = waiting_key(lane, priority)
      for _, member in ipairs(ask('ZRANGEBYSCORE', set, '-inf', int(NOW), 'LIMIT', 0, int(left))) do
        take(set, member, lease, reply)
        claimed = claimed + 1
      end
    end
  end
  stage_entries()
  commit()
  local full = claimed >= room
  note_full(lane, full)
  local event = next_event(lane, full)
  hand_on(lane, event, claimed, full, alone)
  reply[2] = event and int(math.max(event - NOW, 0)) or ''
  reply[3] = full and '1' or ''
  return reply
end
