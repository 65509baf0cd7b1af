-- Runs operations, one after the other: each finds what those before it left, and none is concerned by the refusal of
-- another.
--
-- Arguments: for each operation how many arguments it takes; its name; and those arguments.
-- Reply: for each operation its reply.

-- The operations that were asked for so far: their functions are made when they are needed.
local operations = {}

local function run()
  local name = arg()
  operations[name] = operations[name] or makers[name]()
  return operations[name]()
end

local replies = {}
while taken < #ARGV do
  local arguments = number_arg()
  last_arg = taken + 1 + arguments
  begin_commands()
  begin_entries()
  replies[#replies + 1] = answer(run)
  taken = last_arg
end
return replies
