-- What all scripts share: time, numbers, arguments, refusals, and writes that are all made or none.
--
-- KEYS[1] is the prefix of all keys of a deployment. It holds their one hash tag, so all keys that are made
-- from it here are in its slot. The keys are listed in docs/decisions/0004-redis-data.md.
--
-- Numbers are doubles: whole ones are exact up to 2^53, which microseconds since 1970 reach in 2255. They are
-- written by `int` alone, because `tostring` rounds. Versions and claims' numbers are compared as text.

local P = KEYS[1]
local SCHEMA = '2'

local clock = redis.call('TIME')
-- The time of this script, in microseconds since 1970.
local NOW = clock[1] * 1000000 + clock[2]

-- How whole numbers are written. As an integer, where the server's have 64 bits: that takes half the time.
local WHOLE = string.format('%d', 9007199254740992) == '9007199254740992' and '%d' or '%.0f'

local function int(number)
  return string.format(WHOLE, number)
end

-- How many arguments were taken, and where those of the operation end that is done now.
local taken, last_arg = 0, #ARGV

local function has_arg()
  return taken < last_arg
end

-- The next argument.
local function arg()
  taken = taken + 1
  return ARGV[taken]
end

-- The next argument as a number; nothing where it is empty.
local function number_arg()
  return tonumber(arg())
end

-- Ends the script with a reply. What is staged is not done.
local function refuse(...)
  error({ reply = { ... } }, 0)
end

-- Keys that have answered a command which a key of another type would have refused.
local answered = {}

-- Asks Redis. A key of another type is refused by name; other errors are the script's answer.
local function ask(command, key, ...)
  local answer = redis.pcall(command, key, ...)
  if type(answer) == 'table' and answer.err then
    if string.find(answer.err, 'WRONGTYPE', 1, true) then
      refuse('type', key)
    end
    error(answer, 0)
  end
  answered[key] = true
  return answer
end

-- The last members of a sorted set, the very last first, so many at most.
local function newest(set, limit)
  if limit == 0 then
    return {}
  end
  return ask('ZREVRANGE', set, 0, int(limit - 1))
end

-- Writes wait here until everything was checked, because Redis takes nothing back.
local staged, kinds = {}, {}
local KIND = {
  HSET = 'hash', HDEL = 'hash', ZADD = 'zset', ZREM = 'zset', ZREMRANGEBYRANK = 'zset',
  ZREMRANGEBYSCORE = 'zset', LPUSH = 'list', RPUSH = 'list', LTRIM = 'list', SADD = 'set', SET = 'string',
}

-- Notes that a key will be of a kind, if there is one.
local function expect(kind, key)
  kinds[key] = kind
end

local function stage(command, key, ...)
  expect(KIND[command], key)
  staged[#staged + 1] = { command, key, ... }
end

-- Makes the writes that are staged, unless a key that is concerned is of another type than ours.
local function commit()
  if #staged == 0 then
    return
  end
  for key, kind in pairs(kinds) do
    -- Most were read already, which says the same for nothing.
    if not answered[key] then
      local found = ask('TYPE', key).ok
      if found ~= 'none' and found ~= kind then
        refuse('type', key)
      end
    end
  end
  for _, command in ipairs(staged) do
    ask(unpack(command))
  end
  staged, kinds = {}, {}
end

-- The last number that was given out, the schema, and the life that is trusted, read once.
local known
local function meta()
  known = known or ask('HMGET', P .. 'm', 'number', 'schema', 'trusted')
  return known
end

-- A number that was never given out before and is greater than all that were. It follows the time, so that
-- this also holds after Redis lost the last numbers that it gave out. Written by `stage_number`.
local last, last_written
local function next_number()
  if not last then
    local number, schema = unpack(meta())
    if schema and schema ~= SCHEMA then
      refuse('schema', schema)
    end
    last_written = number and tonumber(number) or 0
    last = last_written
  end
  last = math.max(last + 1, NOW)
  return int(last)
end

local function stage_number()
  if last ~= last_written then
    -- The schema comes along: a server that lost everything has lost that, too.
    stage('HSET', P .. 'm', 'number', int(last), 'schema', SCHEMA)
    last_written = last
  end
end

-- A record is a line of fields with tabs between them, which scripts read, and a body, which they do not.
-- The first field tells the form of the line.
local FORM = '1\t'

local function pack(fields, body)
  return FORM .. table.concat(fields, '\t') .. '\n' .. body
end

-- The fields of a record that has so many.
local function open(key, field, value, count)
  local line = '^' .. FORM .. '([^\t\n]*)' .. string.rep('\t([^\t\n]*)', count - 1) .. '\n'
  local fields = { string.match(value, line) }
  if #fields ~= count then
    refuse('unreadable', key, field)
  end
  return fields
end

-- The body of a record.
local function body_of(value)
  return string.match(value, '\n(.*)$')
end

-- The life of this server: another one after a restart, and on a replica that takes over.
local life
local function incarnation()
  if not life then
    local info = redis.pcall('INFO', 'server')
    if type(info) == 'table' then
      refuse('info', info.err)
    end
    life = string.match(info, 'run_id:(%w+)') or refuse('info', 'it names no run_id')
  end
  return life
end

local trusted
local function is_trusted()
  if trusted == nil then
    trusted = meta()[3] == incarnation()
  end
  return trusted
end

-- Forgets what an operation has read and staged, for the next one of the same script. What stays is true of all: the
-- last number, and which keys are of our type.
local function begin_commands()
  staged, kinds, known, trusted = {}, {}, nil, nil
end

-- Runs a script or an operation: its answer, its refusal, or the error that Redis gave.
local function answer(main)
  local done, result = pcall(main)
  if done then
    return result
  elseif type(result) == 'table' then
    return result.reply or result
  end
  return redis.error_reply('ERR ' .. tostring(result))
end
