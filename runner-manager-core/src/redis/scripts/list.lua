-- Reads a page of records in the order of a sorted set.
--
-- Arguments: the set and the hash that has the records, both without the prefix; whether the set is in the order
-- of names (1), or of times; whether it is read from the end (1); how many records at most; the member after
-- which the page begins, or empty; and whether that member's place is known by its record when it has left the
-- set (1).
-- Reply: ok, then for each its member and its record.

local set, records = P .. arg(), P .. arg()
local by_name, backward = arg() == '1', arg() == '1'
local limit, after, has_place = number_arg(), arg(), arg() == '1'

-- How many records are asked for at a time.
local CHUNK = 500

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

-- The rank at which the page begins.
local function first_rank()
  if after == '' then
    return 0
  end
  local rank = ask(backward and 'ZREVRANK' or 'ZRANK', set, after)
  if rank then
    return rank + 1
  end
  local record = has_place and ask('HGET', records, after)
  if not record then
    return 0
  end
  return rank_of_place(tonumber(open(records, after, record, 4)[2]), after)
end

local function members()
  if by_name then
    return ask('ZRANGEBYLEX', set, after == '' and '-' or '(' .. after, '+', 'LIMIT', 0, limit)
  end
  local first = first_rank()
  return ask(backward and 'ZREVRANGE' or 'ZRANGE', set, first, first + limit - 1)
end

return answer(function()
  local reply, names = { 'ok' }, members()
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
