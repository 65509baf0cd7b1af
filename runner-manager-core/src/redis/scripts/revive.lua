-- Brings a task back that was given up.
--
-- Arguments: its key.
-- Reply: ok, and whether there was one (1 or 0).

local NORMAL = 1

return function()
  local key = arg()
  local lane, task = forget_dead(key)
  if not lane then
    return { 'ok', '0' }
  end
  push(key, lane, nil, NORMAL, task)
  commit_and_wake()
  return { 'ok', '1' }
end
