// Phases led through Helpers, each reading what the one before wrote in other shares; for ThreadSanitizer.
#include <cstdio>
#include <cstdlib>
#include <thread>
#include <vector>

#include "core/helpers.hpp"

namespace {

constexpr int kShares = 5, kThreads = 3, kPhases = 2000;

struct Work {
  long from[kShares] = {}, to[kShares] = {};
};

// Each share of `to` is the sum of all of `from`, and its number.
void phase(const void* context, int share, int shares) {
  Work& work = *static_cast<Work*>(const_cast<void*>(context));
  long sum = share;
  for (int other = 0; other < shares; ++other) sum += work.from[other];
  work.to[share] = sum % 1000003;
}

long run(int threads) {
  ffrl::Helpers helpers(kShares);
  helpers.gather(threads);
  std::vector<std::thread> others;
  for (int me = 1; me < threads; ++me) others.emplace_back([&helpers, me] { helpers.help(me, nullptr); });
  Work work;
  for (int i = 0; i < kPhases; ++i) {
    helpers.lead(ffrl::Phase::hidden, phase, &work);
    for (int share = 0; share < kShares; ++share) work.from[share] = work.to[share] + i;  // the leader's alone
  }
  helpers.dismiss();
  for (std::thread& other : others) other.join();
  return work.from[0];
}

}  // namespace

int main() {
  const long of_one = run(1), of_many = run(kThreads);
  if (of_one == of_many) return EXIT_SUCCESS;
  std::printf("one thread: %ld, %d threads: %ld\n", of_one, kThreads, of_many);
  return EXIT_FAILURE;
}
