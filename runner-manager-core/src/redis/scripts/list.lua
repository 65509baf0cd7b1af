-- Reads a page of records.
--
-- Arguments: the order: of names or of times, in which a sorted set is, or heard, in which all jobs are; the set and
-- the hash that has the records, both without the prefix; how many records at most; the member after which the page
-- begins, or empty; and whether that member's place is known by its record when it has left the set (1).
-- Reply: ok, then for each its member and its record.

local order, set, records = arg(), P .. arg(), P .. arg()
local limit, after, has_place = number_arg(), arg(), arg() == '1'

-- How many records are asked for at a time.
local CHUNK = 500

-- The line of the job after which the page begins; nothing where there is no such job.
local function line_before()
  local record = after ~= '' and ask('HGET', records, after)
  return record and open(records, after, record, JOB)
end

-- How many members stand before a place.
local function rank_of_place(score, member)
  local low, high = 0, ask('ZCARD', set)
  while low < high do
    local middle = math.floor((low + high) / 2)
    local found = ask('ZRANGE', set, middle, middle, 'WITHSCORES')
    local at = tonumber(found[2])
    if at < score or (at == score and found[1] < member) then
      low = middle + 1
    else
      high = middle
    end
  end
  return low
end

-- The rank at which the page begins, in the order of times.
local function first_rank()
  local rank = after ~= '' and ask('ZRANK', set, after)
  if rank then
    return rank + 1
  end
  local line = has_place and line_before()
  return line and rank_of_place(tonumber(line[2]), after) or 0
end

local members = {
  names = function()
    return ask('ZRANGEBYLEX', set, after == '' and '-' or '(' .. after, '+', 'LIMIT', 0, limit)
  end,
  times = function()
    local first = first_rank()
    return ask('ZRANGE', set, first, first + limit - 1)
  end,
  heard = function()
    local line = line_before()
    return heard_before(line and line[5] .. after, limit)
  end,
}

return answer(function()
  local reply, names = { 'ok' }, members[order]()
  for first = 1, #names, CHUNK do
    local chunk = ask('HMGET', records, unpack(names, first, math.min(first + CHUNK - 1, #names)))
    for at, record in ipairs(chunk) do
      local member = names[first + at - 1]
      reply[#reply + 1] = member
      reply[#reply + 1] = record or refuse('index', set, member)
    end
  end
  return reply
end)
