-- How the queue fares.
--
-- Reply: ok; how many tasks were given up; then for each lane that has a task its name, how many are due,
-- delayed and claimed, and when the oldest that is due became due, or empty.

-- How many holds that are over are looked at, at most: claims put them back soon.
local MOST_ENDED = 200

local function count(set, from, to)
  return ask('ZCOUNT', set, from, to)
end

local function oldest_due(oldest, set)
  local score = tonumber(ask('ZRANGE', set, 0, 0, 'WITHSCORES')[2])
  if score and score <= NOW and score < (oldest or math.huge) then
    return score
  end
  return oldest
end

-- What was pushed behind a hold that is over is due with it, since the earlier of the two.
local function oldest_pushed(oldest, behind)
  for _, key in ipairs(ask('ZRANGEBYSCORE', behind, '-inf', int(NOW), 'LIMIT', 0, MOST_ENDED)) do
    local waiting = entry_of(key).waiting or refuse('index', behind, key)
    oldest = math.min(oldest, waiting.due)
  end
  return oldest
end

return answer(function()
  local now, later = int(NOW), '(' .. int(NOW)
  local reply = { 'ok', int(ask('HLEN', P .. 'd')) }
  for _, lane in ipairs(ask('SMEMBERS', P .. 'l')) do
    -- A hold whose time is over is a task that is due; what was pushed behind one that goes on is delayed.
    local holds = lane_key('h', lane)
    local due, claimed = count(holds, '-inf', now), count(holds, later, '+inf')
    local behind = lane_key('b', lane)
    local delayed, oldest = count(behind, later, '+inf'), oldest_due(nil, holds)
    oldest = oldest and oldest_pushed(oldest, behind)
    for priority = 0, 2 do
      local set = waiting_key(lane, priority)
      due = due + count(set, '-inf', now)
      delayed = delayed + count(set, later, '+inf')
      oldest = oldest_due(oldest, set)
    end
    if due + delayed + claimed > 0 then
      for _, part in ipairs({ lane, int(due), int(delayed), int(claimed), oldest and int(oldest) or '' }) do
        reply[#reply + 1] = part
      end
    end
  end
  return reply
end)
