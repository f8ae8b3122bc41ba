#include "text.hpp"

#include <algorithm>
#include <array>
#include <cctype>
#include <sstream>
#include <string_view>
#include <utility>

namespace ptx {
namespace {

constexpr std::array<const char*, 21> kNames = {"pred",  "b8",     "u8",  "s8",  "b16", "u16", "s16",
                                                "f16",   "bf16",   "b32", "u32", "s32", "f32", "tf32",
                                                "f16x2", "bf16x2", "b64", "u64", "s64", "f64", "none"};

bool word_char(char c) { return std::isalnum(static_cast<unsigned char>(c)) || c == '_' || c == '$' || c == '%'; }

std::string trimmed(std::string_view text) {
  const auto first = text.find_first_not_of(" \t\r\n");
  if (first == std::string_view::npos) return {};
  return std::string(text.substr(first, text.find_last_not_of(" \t\r\n") - first + 1));
}

/// Comments become blanks; so do the lines of directives that end with the line. Line breaks stay, for the numbers.
std::string without_comments(const std::string& text) {
  std::string out = text;
  for (std::size_t i = 0; i + 1 < out.size(); ++i) {
    if (out[i] == '/' && out[i + 1] == '/') {
      while (i < out.size() && out[i] != '\n') out[i++] = ' ';
    } else if (out[i] == '/' && out[i + 1] == '*') {
      const auto end = std::min(out.find("*/", i + 2), out.size() - 2) + 2;
      for (; i < end; ++i)
        if (out[i] != '\n') out[i] = ' ';
    }
  }
  static constexpr std::string_view kLines[] = {".version", ".target", ".address_size", ".file", ".loc", ".pragma"};
  for (std::size_t start = 0; start < out.size();) {
    const auto end = std::min(out.find('\n', start), out.size());
    const auto first = out.find_first_not_of(" \t", start);
    if (first < end)
      for (const auto name : kLines)
        if (out.compare(first, name.size(), name) == 0 && !word_char(out[first + name.size()]))
          for (auto i = first; i < end; ++i) out[i] = ' ';
    start = end + 1;
  }
  return out;
}

/// Words of a declaration; brackets, commas, equals and parentheses stand alone.
std::vector<std::string> words(const std::string& text) {
  std::vector<std::string> out;
  std::string word;
  const auto flush = [&] {
    if (!word.empty()) out.push_back(std::exchange(word, {}));
  };
  for (const char c : text) {
    if (std::isspace(static_cast<unsigned char>(c)))
      flush();
    else if (std::string_view("[](),={}<>").find(c) != std::string_view::npos) {
      flush();
      out.emplace_back(1, c);
    } else {
      if (c == '.' && !word.empty() && word[0] == '.') flush();
      word += c;
    }
  }
  flush();
  return out;
}

/// `.shared .align 16 .b8 name[1024] = {…}`, with whatever linkage before it.
Variable read_variable(const std::string& text, const std::string& default_space = "") {
  Variable out;
  out.space = default_space;
  const auto list = words(text);
  for (std::size_t i = 0; i < list.size(); ++i) {
    const std::string& word = list[i];
    if (word == ".align") {
      const int align = std::stoi(list.at(++i));
      if (out.type == Type::none) out.align = align;  // after the type it tells of what a pointer points to
    } else if (word == ".shared" || word == ".global" || word == ".const" || word == ".local" || word == ".param") {
      if (out.type == Type::none) out.space = word.substr(1);
    } else if (word == ".visible" || word == ".extern" || word == ".weak" || word == ".common" || word == ".ptr") {
      continue;
    } else if (word == "[") {
      out.array = true;
      out.elements *= list.at(i + 1) == "]" ? 0 : std::stoll(list[i + 1], nullptr, 0);
      i += list[i + 1] == "]" ? 1 : 2;
    } else if (word == "=") {
      for (++i; i < list.size(); ++i)
        if (list[i] != "{" && list[i] != "}" && list[i] != ",") out.initial.push_back(list[i]);
    } else if (word[0] == '.') {
      out.type = type_named(word.substr(1));
      if (out.type == Type::none) throw Fault("unknown directive " + word + " in: " + trimmed(text));
    } else {
      out.name = word;
    }
  }
  if (out.name.empty() || out.type == Type::none) throw Fault("cannot read the declaration: " + trimmed(text));
  out.align = std::max(out.align, width(out.type));
  return out;
}

std::vector<Variable> read_parameters(const std::string& text) {
  std::vector<Variable> out;
  for (const auto& one : split_operands(text)) out.push_back(read_variable(one, "param"));
  return out;
}

/// `.reqntid x, y, z`, multiplied; 0 without it.
std::uint32_t demanded_threads(const std::string& head) {
  const auto list = words(head);
  const auto at = std::find(list.begin(), list.end(), ".reqntid");
  if (at == list.end()) return 0;
  std::uint32_t out = 1;
  for (auto word = at + 1; word != list.end() && (*word)[0] != '.'; ++word)
    if (*word != ",") out *= static_cast<std::uint32_t>(std::stoul(*word));
  return out;
}

/// The statements of one body, with the scopes of register names resolved by renaming.
class BodyReader {
 public:
  BodyReader(const std::string& text, int line, Entry& entry) : entry_(entry), line_(line), scopes_(1) {
    std::string pending;
    for (const char c : text) {
      if (c == '\n') ++line_;
      const bool at_start = (c == '{' || c == '}') && without_labels(trimmed(pending)).empty();
      if (c == ';') {
        statement(pending);
        pending.clear();
      } else if (c == '{' && at_start) {
        statement(pending);
        pending.clear();
        scopes_.emplace_back();
        ++scope_count_;
      } else if (c == '}' && at_start) {
        statement(pending);
        pending.clear();
        scopes_.pop_back();
      } else if (!pending.empty() || !std::isspace(static_cast<unsigned char>(c))) {
        pending += std::isspace(static_cast<unsigned char>(c)) ? ' ' : c;
      }
    }
    statement(pending);
  }

 private:
  static std::size_t label_end(std::string_view text) {
    std::size_t i = 0;
    while (i < text.size() && word_char(text[i])) ++i;
    const std::size_t name = i;
    while (i < text.size() && text[i] == ' ') ++i;
    const bool label = name > 0 && i < text.size() && text[i] == ':' && (i + 1 == text.size() || text[i + 1] != ':');
    return label ? i + 1 : 0;
  }

  static std::string without_labels(std::string out) {
    while (const auto end = label_end(out)) out = trimmed(out.substr(end));
    return out;
  }

  void statement(std::string text) {
    text = trimmed(text);
    std::string name;
    while (const auto end = label_end(text)) {
      name = trimmed(text.substr(0, text.find(':')));
      if (!entry_.labels.emplace(name, static_cast<std::uint32_t>(entry_.statements.size())).second)
        throw Fault("label " + name + " is defined twice");
      text = trimmed(text.substr(end));
    }
    if (text.empty()) return;
    if (text.compare(0, 4, ".reg") == 0) return declare(text);
    static constexpr std::string_view kTargets = ".branchtargets";
    if (text.compare(0, kTargets.size(), kTargets) == 0) {
      entry_.branch_targets[name] = split_operands(text.substr(kTargets.size()));
      return;
    }
    if (text[0] == '.') {
      const auto variable = read_variable(text);
      if (variable.space != "shared" && variable.space != "local")
        throw Fault("a body declares a variable in ." + variable.space + ": " + text);
      entry_.variables.push_back(variable);
      return;
    }
    instruction(text);
  }

  void declare(const std::string& text) {
    const auto list = words(text);
    const Type type = type_named(list.at(1).substr(1));
    if (type == Type::none) throw Fault("registers of an unknown type: " + text);
    for (std::size_t i = 2; i < list.size(); ++i) {
      if (list[i] == ",") continue;
      const std::string& name = list[i];
      const bool inner = scopes_.size() > 1;
      const std::string unique = inner ? name + "@" + std::to_string(scope_count_) : name;
      int count = -1;
      if (i + 1 < list.size() && list[i + 1] == "<") {
        count = std::stoi(list.at(i + 2));
        i += 3;
        if (inner)
          for (int k = 0; k < count; ++k) scopes_.back()[name + std::to_string(k)] = unique + std::to_string(k);
      } else if (inner) {
        scopes_.back()[name] = unique;
      }
      entry_.registers.push_back({type, unique, count});
    }
  }

  void instruction(const std::string& text) {
    Statement out;
    out.text = text;
    out.line = line_;
    std::string rest = text;
    if (rest[0] == '@') {
      out.negated = rest[1] == '!';
      auto end = rest.find(' ');
      out.predicate = renamed(rest.substr(1 + out.negated, end - 1 - out.negated));
      rest = trimmed(rest.substr(end));
    }
    std::size_t end = 0;
    while (end < rest.size() && rest[end] != ' ') ++end;
    std::stringstream opcode(rest.substr(0, end));
    for (std::string part; std::getline(opcode, part, '.');) out.opcode.push_back(part);
    out.operands = split_operands(renamed(rest.substr(end)));
    entry_.statements.push_back(std::move(out));
  }

  std::string renamed(const std::string& text) const {
    if (scopes_.size() == 1) return text;
    std::string out;
    for (std::size_t i = 0; i < text.size();) {
      if (!word_char(text[i])) {
        out += text[i++];
        continue;
      }
      auto end = i;
      while (end < text.size() && word_char(text[end])) ++end;
      std::string name = text.substr(i, end - i);
      for (auto scope = scopes_.rbegin(); scope != scopes_.rend(); ++scope)
        if (const auto found = scope->find(name); found != scope->end()) {
          name = found->second;
          break;
        }
      out += name;
      i = end;
    }
    return out;
  }

  Entry& entry_;
  int line_, scope_count_ = 0;
  std::vector<std::unordered_map<std::string, std::string>> scopes_;
};

}  // namespace

Type type_named(const std::string& name) {
  for (std::size_t i = 0; i + 1 < kNames.size(); ++i)
    if (name == kNames[i]) return static_cast<Type>(i);
  return Type::none;
}

const char* type_name(Type type) { return kNames[static_cast<std::size_t>(type)]; }

std::vector<std::string> split_operands(const std::string& text) {
  std::vector<std::string> out;
  std::string part;
  int depth = 0;
  for (const char c : text) {
    depth += (c == '{' || c == '[' || c == '(') - (c == '}' || c == ']' || c == ')');
    if (c == ',' && depth == 0)
      out.push_back(trimmed(std::exchange(part, {})));
    else
      part += c;
  }
  if (part = trimmed(part); !part.empty()) out.push_back(part);
  return out;
}

ModuleText read_module(const std::string& source) {
  const std::string text = without_comments(source);
  ModuleText out;
  int line = 1;
  std::size_t at = 0;
  const auto advance = [&](std::size_t to) {
    for (; at < to; ++at) line += text[at] == '\n';
  };
  const auto block_end = [&](std::size_t open) {
    int depth = 0;
    for (std::size_t i = open; i < text.size(); ++i) {
      depth += (text[i] == '{') - (text[i] == '}');
      if (depth == 0) return i;
    }
    throw Fault("a brace opened in the PTX text is never closed");
  };
  while ((advance(std::min(text.find_first_not_of(" \t\r\n;", at), text.size())), at < text.size())) {
    const auto brace = text.find('{', at), semicolon = text.find(';', at);
    const auto head_end = std::min({brace, semicolon, text.size()});
    const std::string head = text.substr(at, head_end - at);
    const auto entry_at = head.find(".entry");
    if (entry_at != std::string::npos) {
      if (brace == std::string::npos) throw Fault("an entry without a body: " + trimmed(head));
      Entry entry;
      const auto open = head.find('(', entry_at);
      entry.name = trimmed(head.substr(entry_at + 6, std::min(open, head.size()) - entry_at - 6));
      if (open == std::string::npos)
        entry.name = entry.name.substr(0, entry.name.find_first_of(" .\n"));
      else
        entry.parameters = read_parameters(head.substr(open + 1, head.rfind(')') - open - 1));
      entry.threads = demanded_threads(head);
      advance(brace + 1);
      const auto close = block_end(brace);
      BodyReader(text.substr(at, close - at), line, entry);
      advance(close + 1);
      out.entries.push_back(std::move(entry));
    } else if (head.find(".func") != std::string::npos || head.find(".section") != std::string::npos) {
      advance(brace < semicolon ? block_end(brace) + 1 : semicolon + 1);
    } else {
      const auto end = semicolon == std::string::npos ? text.size() : semicolon;
      const std::string declaration = text.substr(at, end - at);
      if (trimmed(declaration).compare(0, 6, ".alias") != 0) out.variables.push_back(read_variable(declaration));
      advance(std::min(end + 1, text.size()));
    }
  }
  if (out.entries.empty()) throw Fault("the PTX text has no .entry");
  return out;
}

}  // namespace ptx
