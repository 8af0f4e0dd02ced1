-- From Markdown as a forge shows it to what a printed page has: the paragraph "**Figure 1.** ..." behind a picture and
-- "**Table 1.** ..." before a table become captions, and links to files of the repository their text alone.

local function starts_with(block, word)
  if block == nil or block.t ~= "Para" or block.content[1] == nil or block.content[1].t ~= "Strong" then
    return false
  end
  return pandoc.utils.stringify(block.content[1]):sub(1, #word) == word
end

local function is_picture(block)
  return block.t == "Para" and #block.content == 1 and block.content[1].t == "Image"
end

-- A long table may go on on the next page, a short one stays together.
local function set(tabular)
  if #tabular.bodies[1].body <= 12 then
    return {tabular}
  end
  local start = "#[#show figure: set block(breakable: true)"
  return {pandoc.RawBlock("typst", start), tabular, pandoc.RawBlock("typst", "]")}
end

function Blocks(blocks)
  local made = pandoc.Blocks{}
  local i = 1
  while i <= #blocks do
    local block, after = blocks[i], blocks[i + 1]
    if is_picture(block) and starts_with(after, "Figure") then
      made:insert(pandoc.Figure({pandoc.Plain(block.content)}, {long = {pandoc.Plain(after.content)}}))
      i = i + 2
    elseif starts_with(block, "Table") and after ~= nil and after.t == "Table" then
      after.caption = {long = {pandoc.Plain(block.content)}}
      made:extend(set(after))
      i = i + 2
    else
      made:insert(block)
      i = i + 1
    end
  end
  return made
end

function Link(link)
  if not link.target:match("^%a+:") then
    return link.content
  end
end
