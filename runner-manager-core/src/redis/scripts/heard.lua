-- The order in which jobs were heard of.
--
-- It is kept in pieces: sorted sets of about a hundred members, which Redis packs, so that a job takes a third of what
-- it takes in a long one. A member is the job's place: when it was heard of, in 16 digits, and its key. A piece is named
-- by the place with which it began, and all that is in it comes before the name of the next one. `ja` has the names.

-- How many members a piece has before another one begins. Redis packs up to 128, and some jobs come late.
local FULL = 100
-- The piece of what comes before all others: no place is before this.
local FIRST = '0'
-- How many fields the record of a job has: its version, when it was made, where it waits, when it ended, and when it
-- was heard of.
local JOB = 5

-- The pieces that this operation has looked at by their names, and the names of those that it begins.
local pieces, begun = {}, {}

-- Forgets them, for the next operation of the same script.
local function begin_pieces()
  pieces, begun = {}, {}
end

local function piece_key(name)
  return P .. 'ja:' .. name
end

-- The piece in which a place is or would be, as the changes so far leave it.
local function piece_of(place)
  local name = ask('ZREVRANGEBYLEX', P .. 'ja', '[' .. place, '-', 'LIMIT', 0, 1)[1] or FIRST
  for _, other in ipairs(begun) do
    if other <= place and other > name then
      name = other
    end
  end
  if not pieces[name] then
    local size = ask('ZCARD', piece_key(name))
    pieces[name] = { key = piece_key(name), size = size, before = size }
  end
  return pieces[name]
end

-- Whether a place comes after all that is in a piece.
local function is_beyond(piece, place)
  if piece.added and piece.added > place then
    return false
  end
  local last = ask('ZREVRANGE', piece.key, 0, 0)[1]
  return not last or last < place
end

local function begin_piece(place)
  begun[#begun + 1] = place
  pieces[place] = { key = piece_key(place), size = 0, before = 0 }
  return pieces[place]
end

-- Puts a job into the order.
local function enlist(place)
  local piece = piece_of(place)
  if piece.size >= FULL and is_beyond(piece, place) then
    piece = begin_piece(place)
  end
  piece.size = piece.size + 1
  if not piece.added or piece.added < place then
    piece.added = place
  end
  stage('ZADD', piece.key, '0', place)
end

-- Takes a job out of the order.
local function unlist(place)
  local piece = piece_of(place)
  piece.size = piece.size - 1
  stage('ZREM', piece.key, place)
end

-- Stages what has become of the names: that of a piece is there as long as something is in it.
local function stage_pieces()
  for name, piece in pairs(pieces) do
    if piece.before <= 0 and piece.size > 0 then
      stage('ZADD', P .. 'ja', '0', name)
    elseif piece.before > 0 and piece.size <= 0 then
      stage('ZREM', P .. 'ja', name)
    end
  end
end

-- The keys of the jobs before a place, or of all, those first heard of last first, so many at most.
local function heard_before(place, limit)
  local keys, top = {}, place and '(' .. place or '+'
  local below = top
  while #keys < limit do
    local name = ask('ZREVRANGEBYLEX', P .. 'ja', below, '-', 'LIMIT', 0, 1)[1]
    if not name then
      break
    end
    local rest = int(limit - #keys)
    for _, found in ipairs(ask('ZREVRANGEBYLEX', piece_key(name), top, '-', 'LIMIT', 0, rest)) do
      keys[#keys + 1] = string.sub(found, 17)
    end
    below = '(' .. name
  end
  return keys
end
