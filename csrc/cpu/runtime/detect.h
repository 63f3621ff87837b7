// Which instruction-set tiers this machine and its operating system offer.
#pragma once

#include <string>
#include <vector>

#include "api/op_table.h"

namespace headrace {

struct IsaStatus {
  std::string name;
  bool is_available;
  std::string reason;    // why not, or ""
  const OpTable* table;  // null if not compiled in
};

// All tiers, lowest first. Asks the operating system for AMX tiles on the first call.
const std::vector<IsaStatus>& isas();

// Throws std::invalid_argument with the names that would work.
const OpTable& table_of(const std::string& isa);

}  // namespace headrace
