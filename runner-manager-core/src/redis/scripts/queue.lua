-- The queue at work: what waits, what is held, what was given up.
--
-- A key has one entry in the hash `t`. While it waits it stands in `w<priority>:<lane>` by when it is due and
-- by its sequence; while it is held, in `h:<lane>` by when the hold ends. What was pushed meanwhile stands in
-- the entry, and the key in `b:<lane>`. Those who wait on a lane block on the list `k:<lane>`.

-- How many tokens a wake list has at most. One would do, since who claims and leaves some behind adds one.
local TOKENS = 3

-- Entries that this script has looked at, and those in the order in which they were first changed.
local entries, changed = {}, {}

-- Forgets them, for the next operation of the same script.
local function begin_entries()
  entries, changed = {}, {}
end

local function lane_key(letter, lane)
  return P .. letter .. ':' .. lane
end

local function waiting_key(lane, priority)
  return lane_key('w' .. int(priority), lane)
end

-- A wait, from five fields of a record; nothing where they are empty.
local function read_wait(fields, first)
  if fields[first] == '' then
    return nil
  end
  return {
    due = tonumber(fields[first]),
    floor = tonumber(fields[first + 1]),
    priority = tonumber(fields[first + 2]),
    sequence = tonumber(fields[first + 3]),
    attempts = tonumber(fields[first + 4]),
  }
end

local function write_wait(fields, wait)
  local parts = { '', '', '', '', '' }
  if wait then
    parts = {
      int(wait.due), wait.floor and int(wait.floor) or '', int(wait.priority), int(wait.sequence),
      int(wait.attempts),
    }
  end
  for _, part in ipairs(parts) do
    fields[#fields + 1] = part
  end
end

-- Where an entry stands: sorted sets, scores and members.
local function places(entry)
  local wait, hold = entry.waiting, entry.held
  if hold then
    local held = { { lane_key('h', entry.lane), hold.till, entry.key } }
    if wait then
      held[2] = { lane_key('b', entry.lane), hold.till, entry.key }
    end
    return held
  elseif wait then
    -- Sequences have 16 digits from 2001 to 2286, so that texts are in the order of the numbers.
    local member = string.format('%016.0f', wait.sequence) .. entry.key
    return { { waiting_key(entry.lane, wait.priority), wait.due, member } }
  end
  return {}
end

-- The entry of a key. One that there is not has no lane.
local function entry_of(key)
  local entry = entries[key]
  if entry then
    return entry
  end
  entry = { key = key, before = {} }
  local value = ask('HGET', P .. 't', key)
  if value then
    local fields = open(P .. 't', key, value, 13)
    entry.lane, entry.task, entry.waiting = fields[1], body_of(value), read_wait(fields, 2)
    if fields[7] ~= '' then
      entry.held = { number = fields[7], till = tonumber(fields[8]), from = read_wait(fields, 9) }
    end
    entry.before, entry.was_held = places(entry), entry.held
  end
  entries[key] = entry
  return entry
end

-- Notes that an entry has changed.
local function touch(entry)
  if not entry.touched then
    entry.touched = true
    changed[#changed + 1] = entry
  end
end

local function has_place(list, place)
  for _, other in ipairs(list) do
    if other[1] == place[1] and other[3] == place[3] then
      return other
    end
  end
end

local function stage_entry(entry)
  local after = places(entry)
  for _, place in ipairs(entry.before) do
    if not has_place(after, place) then
      stage('ZREM', place[1], place[3])
    end
  end
  for _, place in ipairs(after) do
    local old = has_place(entry.before, place)
    if not old or old[2] ~= place[2] then
      stage('ZADD', place[1], int(place[2]), place[3])
    end
  end
  if #after == 0 then
    stage('HDEL', P .. 't', entry.key)
    return
  end
  local fields, hold = { entry.lane }, entry.held
  write_wait(fields, entry.waiting)
  fields[7], fields[8] = hold and hold.number or '', hold and int(hold.till) or ''
  write_wait(fields, hold and hold.from)
  stage('HSET', P .. 't', entry.key, pack(fields, entry.task))
  if #entry.before == 0 then
    stage('SADD', P .. 'l', entry.lane)
  end
end

-- Stages all entries that were changed, and the numbers that they got. Tells whom to wake once the writes are
-- made: how many tasks are due by lane, which entries may be what happens next on theirs, and on which lanes
-- a hold has ended.
local function stage_entries()
  local wakes = { due = {}, next = {}, freed = {} }
  for _, entry in ipairs(changed) do
    stage_entry(entry)
    local lane, after = entry.lane, places(entry)
    if entry.held then
      if entry.was_held and entry.held.till < entry.was_held.till then
        wakes.next[#wakes.next + 1] = { lane, after[1] }
      end
    else
      if entry.waiting and entry.waiting.due <= NOW then
        wakes.due[lane] = (wakes.due[lane] or 0) + 1
      elseif entry.waiting then
        wakes.next[#wakes.next + 1] = { lane, after[1] }
      end
      if entry.was_held then
        wakes.freed[lane] = true
      end
    end
    entry.before, entry.was_held, entry.touched = after, entry.held, false
    expect('list', lane_key('k', lane))
    expect('hash', P .. 'f')
  end
  changed = {}
  stage_number()
  return wakes
end

-- The lanes on which this script has woken somebody.
local woken = {}

-- Wakes one who waits on a lane, in whichever process, so often.
local function add_tokens(lane, count)
  woken[lane] = true
  local list = lane_key('k', lane)
  for _ = 1, math.min(count, TOKENS - ask('LLEN', list)) do
    ask('LPUSH', list, '1')
  end
end

local function wake(wakes)
  for lane, count in pairs(wakes.due) do
    add_tokens(lane, count)
  end
  for _, next in ipairs(wakes.next) do
    local lane, place = next[1], next[2]
    -- Somebody has to know that something happens earlier than was known.
    if ask('ZRANK', place[1], place[3]) == 0 then
      add_tokens(lane, 1)
    end
  end
  for lane in pairs(wakes.freed) do
    -- Where as many were held as may be, those who wait are waiting for this.
    if ask('HDEL', P .. 'f', lane) == 1 then
      add_tokens(lane, 1)
    end
  end
end

-- Makes all writes that are staged and those of the entries, and wakes who waits for them.
local function commit_and_wake()
  local wakes = stage_entries()
  commit()
  wake(wakes)
end

local function greater(one, two)
  return one and two and math.max(one, two) or one or two
end

-- One wait in the place of two of the same key.
local function merge(one, two)
  local floor = greater(one.floor, two.floor)
  return {
    due = math.max(math.min(one.due, two.due), floor or 0),
    floor = floor,
    priority = math.min(one.priority, two.priority),
    sequence = math.min(one.sequence, two.sequence),
    attempts = math.max(one.attempts, two.attempts),
  }
end

-- Takes a key out of those that were given up: its lane and its task; nothing where there is none.
local function forget_dead(key)
  local value = ask('HGET', P .. 'd', key)
  if not value then
    return nil
  end
  stage('HDEL', P .. 'd', key)
  stage('ZREM', P .. 'dt', key)
  return open(P .. 'd', key, value, 3)[1], string.match(body_of(value), '^[^\n]*')
end

-- Queues a task.
local function push(key, lane, not_before, priority, task)
  local due = math.max(not_before or NOW, NOW)
  local entry = entry_of(key)
  local waiting = entry.waiting
  if not waiting then
    if not entry.held then
      forget_dead(key)
      entry.lane, entry.task = lane, task
    end
    local sequence = tonumber(next_number())
    entry.waiting = { due = due, priority = priority, sequence = sequence, attempts = 0 }
    touch(entry)
    return
  end
  local new = { due = due, priority = priority, sequence = waiting.sequence, attempts = 0 }
  local merged = merge(waiting, new)
  if merged.due ~= waiting.due or merged.priority ~= waiting.priority then
    entry.waiting = merged
    touch(entry)
  end
end

-- Queues the tasks that the rest of the arguments name.
local function push_all()
  while has_arg() do
    local key, lane, not_before, priority = arg(), arg(), number_arg(), number_arg()
    push(key, lane, not_before, priority, arg())
  end
end

-- The entry that a claim holds.
local function held_entry(key, number)
  local entry = entry_of(key)
  local hold = entry.held
  if not hold or hold.number ~= number or hold.till <= NOW then
    refuse('lost')
  end
  return entry
end

-- Ends a hold. What goes back joins what was pushed meanwhile.
local function finish(entry, back)
  if back and entry.waiting then
    back = merge(back, entry.waiting)
  end
  entry.waiting, entry.held = back or entry.waiting, nil
  touch(entry)
end

-- A wait like another one, at another time.
local function wait_again(from, due, floor, attempts)
  return { due = due, floor = floor, priority = from.priority, sequence = from.sequence, attempts = attempts }
end
