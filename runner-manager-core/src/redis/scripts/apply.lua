-- Does one write: checks all of its changes, then makes them together with the tasks that follow.
--
-- Arguments: the operation; the key and the number of the claim, or twice empty; whether the claim ends with it (1);
-- whether it relies on trust (1); how many answers, completed jobs and ended runners are kept, each with for how many
-- microseconds; how many changes follow; for each its letter and what its function takes; then the tasks, as for push.
-- Reply: ok or repeated, then the version of each record, or empty; or why it was refused.

-- How many writes come for each that forgets what is over, and how many entries of each kind that one forgets at most
-- beyond those that it adds: more than can have been added since, so that what was more shrinks.
local WRITES, SPARE = 8, 32
-- The counters of a group stand beside its record, so that one command reads both, under its name and this, which no
-- name has in it.
local COUNTS = '#'
-- What is counted of a group: jobs that wait, then runners by phase.
local QUEUED, FIRST_PHASE, COUNTED = 1, 2, 7

-- What was checked so far: what each change does, and how the changes leave what they concern.
local effects, named, groups, counts, counted
-- How many entries each history gets, and the jobs that are written or forgotten, each with when it ended or empty.
local jobs_finished, runners_ended, jobs_written

local function begin_write()
  effects, named, groups, counts, counted = {}, {}, {}, {}, {}
  jobs_finished, runners_ended, jobs_written = 0, 0, {}
  begin_pieces()
end

local function conflict(record)
  refuse('conflict', record)
end

-- Notes that a record is changed: by one change of a write at most.
local function name(record)
  if named[record] then
    conflict(record)
  end
  named[record] = true
  return record
end

local function effect(change)
  effects[#effects + 1] = change
end

-- The fields of a record, if it is at the version that is expected; empty expects none.
local function compare(record, table_name, field, count, expected)
  local key = P .. table_name
  local value = ask('HGET', key, field)
  local fields = value and open(key, field, value, count)
  if (fields and fields[1] or '') ~= expected then
    conflict(record)
  end
  return fields
end

local function counts_of(group)
  local found = counts[group]
  if found then
    return found
  end
  found = {}
  local packed = ask('HGET', P .. 'g', group .. COUNTS)
  for number in string.gmatch(packed or '0 0 0 0 0 0 0', '%d+') do
    found[#found + 1] = tonumber(number)
  end
  if #found ~= COUNTED then
    refuse('unreadable', P .. 'g', group .. COUNTS)
  end
  found.before = packed
  counts[group], counted[#counted + 1] = found, group
  return found
end

local function count(group, what, by)
  local found = counts_of(group)
  found[what] = found[what] + by
  if found[what] < 0 then
    refuse('count', group)
  end
end

local function sum(found, first)
  local total = 0
  for what = first, COUNTED do
    total = total + found[what]
  end
  return total
end

-- A group as the changes so far leave it; nothing where there is none.
local function group_of(group)
  if groups[group] == nil then
    local value = ask('HGET', P .. 'g', group)
    local fields = value and open(P .. 'g', group, value, 3)
    groups[group] = fields and { max = tonumber(fields[2]), closed = fields[3] == '1' } or false
  end
  return groups[group]
end

local function put_group()
  local group, expected, max, closed, body = arg(), arg(), arg(), arg(), arg()
  compare(name('group ' .. group), 'g', group, 3, expected)
  groups[group] = { max = tonumber(max), closed = closed == '1' }
  effect(function()
    local version = next_number()
    stage('HSET', P .. 'g', group, pack({ version, max, closed }, body))
    return version
  end)
end

local function remove_group()
  local group, expected = arg(), arg()
  local record = name('group ' .. group)
  compare(record, 'g', group, 3, expected)
  if sum(counts_of(group), QUEUED) > 0 then
    conflict(record)
  end
  groups[group] = false
  effect(function()
    stage('HDEL', P .. 'g', group)
    return ''
  end)
end

-- Where a runner stands: sorted sets with its scores. Those that are in the order of names have the score 0.
local function runner_places(phase, group, backend, scope, since)
  return {
    [P .. 'ra'] = '0',
    [P .. 'rg:' .. group] = '0',
    [P .. 'rp' .. phase .. ':' .. group] = since,
    [P .. 'rb:' .. backend] = '0',
    [P .. 'rs:' .. scope] = '0',
  }
end

-- A runner from the arguments.
local function runner_args()
  return {
    name = arg(), group = arg(), phase = arg(), since = arg(), backend = arg(), scope = arg(), body = arg(),
  }
end

-- Writes a runner; `before` has the fields of its record, where there was one.
local function write_runner(runner, before)
  local after = runner_places(runner.phase, runner.group, runner.backend, runner.scope, runner.since)
  local old = before and runner_places(before[2], before[3], before[4], before[5], '') or {}
  for set in pairs(old) do
    if not after[set] then
      stage('ZREM', set, runner.name)
    end
  end
  for set, score in pairs(after) do
    if old[set] ~= score then
      stage('ZADD', set, score, runner.name)
    end
  end
  local version = next_number()
  local fields = { version, runner.phase, runner.group, runner.backend, runner.scope }
  stage('HSET', P .. 'r', runner.name, pack(fields, runner.body))
  return version
end

local function new_runner(runner)
  compare(name('runner ' .. runner.name), 'r', runner.name, 5, '')
  count(runner.group, FIRST_PHASE + runner.phase, 1)
  effect(function()
    return write_runner(runner, nil)
  end)
end

local function reserve_runner()
  local runner = runner_args()
  if not is_trusted() then
    refuse('untrusted')
  end
  compare('runner ' .. runner.name, 'r', runner.name, 5, '')
  local group = group_of(runner.group)
  if not group or group.closed then
    refuse('closed', runner.group)
  end
  local alive = sum(counts_of(runner.group), FIRST_PHASE)
  if alive >= group.max then
    refuse('max', runner.group, int(alive), int(group.max))
  end
  new_runner(runner)
end

local function put_runner()
  local runner, expected = runner_args(), arg()
  local before = compare(name('runner ' .. runner.name), 'r', runner.name, 5, expected)
  if before[3] ~= runner.group then
    conflict('the group of runner ' .. runner.name)
  end
  count(runner.group, FIRST_PHASE + before[2], -1)
  count(runner.group, FIRST_PHASE + runner.phase, 1)
  effect(function()
    return write_runner(runner, before)
  end)
end

local function end_runner()
  local runner, expected, ended_at, body = arg(), arg(), arg(), arg()
  local before = compare(name('runner ' .. runner), 'r', runner, 5, expected)
  count(before[3], FIRST_PHASE + before[2], -1)
  runners_ended = runners_ended + 1
  effect(function()
    for set in pairs(runner_places(before[2], before[3], before[4], before[5], '')) do
      stage('ZREM', set, runner)
    end
    stage('HDEL', P .. 'r', runner)
    stage('ZADD', P .. 'e', ended_at, body)
    return ''
  end)
end

-- The list in which a job waits: of a group, or of those that no group serves (-); none where it is empty.
local function job_list(group)
  if group == '-' then
    return P .. 'ju'
  end
  return group ~= '' and P .. 'jq:' .. group or nil
end

local function is_group(list)
  return list ~= '' and list ~= '-'
end

local function put_job()
  local key, shown, expected = arg(), arg(), arg()
  local created, recorded, list, finished, body = arg(), arg(), arg(), arg(), arg()
  local before = compare(name('job ' .. shown), 'j', key, JOB, expected)
  local old, was_finished = before and before[3] or '', before and before[4] or ''
  jobs_written[key] = finished
  if is_group(old) then
    count(old, QUEUED, -1)
  end
  if is_group(list) then
    count(list, QUEUED, 1)
  end
  if finished ~= '' and finished ~= was_finished then
    jobs_finished = jobs_finished + 1
  end
  effect(function()
    if old ~= '' and old ~= list then
      stage('ZREM', job_list(old), key)
    end
    if list ~= '' then
      stage('ZADD', job_list(list), created, key)
    end
    local place, last_place = recorded .. key, before and before[5] .. key
    if place ~= last_place then
      if last_place then
        unlist(last_place)
      end
      enlist(place)
    end
    -- Where it stood in this list before is passed over: the record tells another time by then.
    if finished ~= '' and finished ~= was_finished then
      stage('RPUSH', P .. 'jf', finished .. ' ' .. key)
    end
    local version = next_number()
    stage('HSET', P .. 'j', key, pack({ version, created, list, finished, recorded }, body))
    return version
  end)
end

local function put_hook()
  local place, expected, body = arg(), arg(), arg()
  compare(name('hook of ' .. place), 'h', place, 1, expected)
  effect(function()
    local version = next_number()
    stage('HSET', P .. 'h', place, pack({ version }, body))
    return version
  end)
end

local function remove_hook()
  local place, expected = arg(), arg()
  compare(name('hook of ' .. place), 'h', place, 1, expected)
  effect(function()
    stage('HDEL', P .. 'h', place)
    return ''
  end)
end

local function put_deployment()
  local expected, body = arg(), arg()
  compare(name('the deployment'), 'm', 'deployment', 1, expected)
  effect(function()
    local version = next_number()
    stage('HSET', P .. 'm', 'deployment', pack({ version }, body))
    return version
  end)
end

local function trust()
  local life = arg()
  local record = name("the store's life")
  if life ~= incarnation() then
    conflict(record)
  end
  effect(function()
    stage('HSET', P .. 'm', 'trusted', life)
    return ''
  end)
end

local changes = {
  G = put_group,
  g = remove_group,
  R = reserve_runner,
  A = function()
    new_runner(runner_args())
  end,
  P = put_runner,
  E = end_runner,
  J = put_job,
  H = put_hook,
  h = remove_hook,
  D = put_deployment,
  T = trust,
}

local function stage_counts()
  for _, group in ipairs(counted) do
    local found = counts[group]
    if sum(found, QUEUED) == 0 then
      stage('HDEL', P .. 'g', group .. COUNTS)
    else
      for what = 1, COUNTED do
        found[what] = int(found[what])
      end
      local packed = table.concat(found, ' ')
      if packed ~= found.before then
        stage('HSET', P .. 'g', group .. COUNTS, packed)
      end
    end
  end
end

-- The first answer to the operation, where it was done before.
local function first_answer(operation)
  local known = ask('HGET', P .. 'o', operation)
  if not known then
    return nil
  end
  local reply = { 'repeated' }
  for part in string.gmatch(known, '[^ ]+') do
    reply[#reply + 1] = part == '-' and '' or part
  end
  return reply
end

local function remember(operation, versions)
  local parts = {}
  for at, version in ipairs(versions) do
    parts[at] = version == '' and '-' or version
  end
  stage('HSET', P .. 'o', operation, table.concat(parts, ' '))
  stage('RPUSH', P .. 'ol', int(NOW) .. ' ' .. operation)
end

-- Takes what is too much or too old from the front of a list of times and names that gets so many more, and hands the
-- names on, with their times.
local function forget_front(list, added, keep, before)
  local beyond = ask('LLEN', list) + added - keep
  local names, times = {}, {}
  for at, entry in ipairs(ask('LRANGE', list, 0, added + SPARE - 1)) do
    local time, name = string.match(entry, '^(-?%d+) (.*)$')
    if not time then
      refuse('unreadable', list, entry)
    elseif at > beyond and tonumber(time) >= before then
      break
    end
    names[at], times[at] = name, time
  end
  if #names > 0 then
    stage('LTRIM', list, #names, -1)
  end
  return names, times
end

local function forget_operations(keep, before)
  local operations = forget_front(P .. 'ol', 1, keep, before)
  if #operations > 0 then
    stage('HDEL', P .. 'o', unpack(operations))
  end
end

local function forget_jobs(keep, before)
  local keys, times = forget_front(P .. 'jf', jobs_finished, keep, before)
  for at, key in ipairs(keys) do
    local time, written = times[at], jobs_written[key]
    if written == time then
      -- What was just written is not forgotten, and must not be left without a place either.
      stage('RPUSH', P .. 'jf', time .. ' ' .. key)
    elseif not written then
      local record = ask('HGET', P .. 'j', key)
      local line = record and open(P .. 'j', key, record, JOB)
      -- One that has another time has another place in the list, or none.
      if line and line[4] == time then
        unlist(line[5] .. key)
        stage('HDEL', P .. 'j', key)
        -- Once: it may stand here again with this time.
        jobs_written[key] = ''
      end
    end
  end
end

local function forget_runners(keep, before)
  local ended = P .. 'e'
  local beyond = ask('ZCARD', ended) + runners_ended - keep
  local oldest, over = ask('ZRANGE', ended, 0, runners_ended + SPARE - 1, 'WITHSCORES'), 0
  for at = 1, #oldest, 2 do
    if over >= beyond and tonumber(oldest[at + 1]) >= before then
      break
    end
    over = over + 1
  end
  if over > 0 then
    stage('ZREMRANGEBYRANK', ended, 0, int(over - 1))
  end
end

-- Forgets what is over: with one write of several, and with each that brings more than one entry.
local function forget(keep)
  local writes = ask('LLEN', P .. 'ol') + 1
  if writes % WRITES == 0 or jobs_finished > 1 or runners_ended > 1 then
    forget_operations(keep[1], NOW - keep[2])
    forget_jobs(keep[3], NOW - keep[4])
    forget_runners(keep[5], NOW - keep[6])
  end
end

return function()
  begin_write()
  local operation, claim_key, claim_number = arg(), arg(), arg()
  local ends, on_trust = arg() == '1', arg() == '1'
  local first = first_answer(operation)
  if first then
    return first
  end
  local held = claim_key ~= '' and held_entry(claim_key, claim_number)
  if on_trust and not is_trusted() then
    refuse('untrusted')
  end
  local keep = {}
  for at = 1, 6 do
    keep[at] = number_arg()
  end
  for _ = 1, number_arg() do
    changes[arg()]()
  end
  local reply, versions = { 'ok' }, {}
  for at, change in ipairs(effects) do
    versions[at] = change()
    reply[at + 1] = versions[at]
  end
  stage_counts()
  push_all()
  if held and ends then
    finish(held, nil)
  end
  remember(operation, versions)
  forget(keep)
  stage_pieces()
  commit_and_wake()
  return reply
end
