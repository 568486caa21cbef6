// Cells with layer normalisation: they see a whole row of units at once (row.h).
#pragma once

namespace fastrnn {
namespace FASTRNN_ISA {

// Gates i, f, g, o; parameters: the gains of the recurrent side's gates, gain and bias of c's.
struct LayerNormLstm : CellDefaults {
  static constexpr int kGates = 4, kExtra = 1, kSaved = 9, kParams = 6;
  static constexpr bool kApart = true, kReadsH = false, kReadsOut = false, kWholeRow = true;

  template <class C, class S, class K = Unclipped>
  static void forward(const RowForward<C, S>& r, const K& clips = {}) {
    using V = Vec<C>;
    const int64_t H = r.H;
    const auto side = Moments<C>::template of<4>(
        H, [&](int g, int64_t u, int lanes) { return load(r.a + g * r.ld + u, lanes); });
    C* c_row = r.s[0];
    each_block<C>(H, [&](int64_t u, int lanes) {
      auto within = clips.at(u, lanes);
      V gate[4], a[4];
      for (int g = 0; g < 4; ++g) {
        a[g] = load(r.a + g * r.ld + u, lanes);
        gate[g] = within.gate(g, load(r.x + g * H + u, lanes) +
                                     side(a[g]) * param(r.p, kParams, g, u));
      }
      const V i = sigmoid(gate[0]), f = sigmoid(gate[1]), g = tanh(gate[2]), o = sigmoid(gate[3]);
      const V c = within.cell(f * load(c_row + u, lanes) + i * g);
      clips.keep(within, u, lanes);
      store(c_row + u, c, lanes);
      store(r.h + u, o, lanes);
      if (!r.saved) return;
      const V kept[9] = {i, f, g, o, a[0], a[1], a[2], a[3], c};
      for (int k = 0; k < 9; ++k) store(r.saved + k * H + u, kept[k], lanes);
    });
    const auto cell =
        Moments<C>::template of<1>(
        H, [&](int, int64_t u, int lanes) { return load(c_row + u, lanes); });
    each_block<C>(H, [&](int64_t u, int lanes) {
      const V y = cell(load(c_row + u, lanes)) * param(r.p, kParams, 4, u) +
                  param(r.p, kParams, 5, u);
      store(r.h + u, load(r.h + u, lanes) * tanh(y), lanes);
    });
  }

  template <class C, class S, class K = Unclipped>
  static void backward(const RowBackward<C, S>& r, const K& clips = {}) {
    using V = Vec<C>;
    const int64_t H = r.H;
    auto kept = [&](int k, int64_t u, int lanes) { return load(r.saved + k * H + u, lanes); };
    const auto side = Moments<C>::template of<4>(
        H, [&](int g, int64_t u, int lanes) { return kept(4 + g, u, lanes); });
    const auto cell =
        Moments<C>::template of<1>(
        H, [&](int, int64_t u, int lanes) { return kept(8, u, lanes); });

    // Through h = o tanh(y), to the normalised c; the gradient of o waits in dx.
    V sum{}, sum_c{};
    each_block<C>(H, [&](int64_t u, int lanes) {
      const V normal = cell(kept(8, u, lanes)), o = kept(3, u, lanes);
      const V gain = param(r.p, kParams, 4, u);
      const V y = tanh(normal * gain + param(r.p, kParams, 5, u));
      const V dh = load(r.dh + u, lanes);
      const V dy = dh * o * (1 - y * y);
      add(r.dp + 4 * r.ld + u, dy * normal, lanes);
      add(r.dp + 5 * r.ld + u, dy, lanes);
      const V dn = dy * gain;
      sum += dn, sum_c += dn * normal;
      store(r.dh_prev + u, dn, lanes);
      store(r.dx + 3 * r.ld + u, clips.at(u, lanes).gate_gradient(3, dh * y * (o * (1 - o))), lanes);
    });
    const C mean = sum_of_lanes<C>(sum) / C(H), mean_c = sum_of_lanes<C>(sum_c) / C(H);

    // To the gates, which is the input side's gradient.
    V side_sum{}, side_sum_a{};
    each_block<C>(H, [&](int64_t u, int lanes) {
      const V i = kept(0, u, lanes), f = kept(1, u, lanes), g = kept(2, u, lanes);
      const V normal = cell(kept(8, u, lanes));
      const auto within = clips.at(u, lanes);
      const V dc = within.cell_gradient(
          load(r.ds[0] + u, lanes) +
          cell.scale * (load(r.dh_prev + u, lanes) - mean - normal * mean_c));
      const V dx[4] = {
          within.gate_gradient(0, dc * g * (i * (1 - i))),
          within.gate_gradient(1, dc * load(r.s_prev[0] + u, lanes) * (f * (1 - f))),
          within.gate_gradient(2, dc * i * (1 - g * g)), load(r.dx + 3 * r.ld + u, lanes)};
      store(r.ds[0] + u, dc * f, lanes);
      for (int k = 0; k < 4; ++k) {
        const V a = side(kept(4 + k, u, lanes)), dn = dx[k] * param(r.p, kParams, k, u);
        add(r.dp + k * r.ld + u, dx[k] * a, lanes);
        side_sum += dn, side_sum_a += dn * a;
        store(r.dx + k * r.ld + u, dx[k], lanes);
      }
    });
    const C side_mean = sum_of_lanes<C>(side_sum) / C(4 * H);
    const C side_mean_a = sum_of_lanes<C>(side_sum_a) / C(4 * H);

    // Through the normalisation of the recurrent side.
    each_block<C>(H, [&](int64_t u, int lanes) {
      for (int k = 0; k < 4; ++k) {
        const V a = side(kept(4 + k, u, lanes));
        const V dn = load(r.dx + k * r.ld + u, lanes) * param(r.p, kParams, k, u);
        store(r.da + k * H + u, side.scale * (dn - side_mean - a * side_mean_a), lanes);
      }
      store(r.dh_prev + u, V{}, lanes);
    });
  }

 private:
  template <class C>
  static inline void add(C* to, Vec<C> v, int lanes) {
    store(to, load(to, lanes) + v, lanes);
  }
};

// Gates r, u, n; parameters: the gains of the gates, their biases.
struct LayerNormGru : CellDefaults {
  static constexpr int kGates = 3, kExtra = 0, kSaved = 6, kParams = 6;
  static constexpr bool kApart = false, kReadsH = true, kReadsOut = false, kWholeRow = true;

  template <class C, class S, class K = Unclipped>
  static void forward(const RowForward<C, S>& r, const K& clips = {}) {
    using V = Vec<C>;
    const int64_t H = r.H;
    auto both = [&](int g, int64_t u, int lanes) {
      return load(r.x + g * H + u, lanes) + load(r.a + g * r.ld + u, lanes);
    };
    const auto norm = Moments<C>::template of<3>(H, both);
    each_block<C>(H, [&](int64_t u, int lanes) {
      V a[3], y[3];
      for (int g = 0; g < 3; ++g) {
        a[g] = both(g, u, lanes);
        y[g] = affine(norm, a[g], r.p, g, u);
      }
      auto within = clips.at(u, lanes);
      const V reset = sigmoid(within.gate(0, y[0])), update = sigmoid(within.gate(1, y[1] - 1));
      const V n = tanh(within.gate(2, reset * y[2]));
      clips.keep(within, u, lanes);
      const V h = load(r.h_prev + u, lanes);
      store(r.h + u, h + update * (n - h), lanes);
      if (!r.saved) return;
      const V kept[6] = {reset, update, n, a[0], a[1], a[2]};
      for (int k = 0; k < 6; ++k) store(r.saved + k * H + u, kept[k], lanes);
    });
  }

  template <class C, class S, class K = Unclipped>
  static void backward(const RowBackward<C, S>& r, const K& clips = {}) {
    using V = Vec<C>;
    const int64_t H = r.H;
    auto kept = [&](int k, int64_t u, int lanes) { return load(r.saved + k * H + u, lanes); };
    const auto norm = Moments<C>::template of<3>(
        H, [&](int g, int64_t u, int lanes) { return kept(3 + g, u, lanes); });
    V sum{}, sum_a{};
    each_block<C>(H, [&](int64_t u, int lanes) {
      const V reset = kept(0, u, lanes), update = kept(1, u, lanes), n = kept(2, u, lanes);
      const V dh = load(r.dh + u, lanes);
      const auto within = clips.at(u, lanes);
      const V dn = within.gate_gradient(2, dh * update * (1 - n * n));
      const V y_n = affine(norm, kept(5, u, lanes), r.p, 2, u);
      const V du = dh * (n - load(r.h_prev + u, lanes)) * (update * (1 - update));
      const V dy[3] = {within.gate_gradient(0, dn * y_n * (reset * (1 - reset))),
                       within.gate_gradient(1, du), dn * reset};
      for (int g = 0; g < 3; ++g) {
        const V a = norm(kept(3 + g, u, lanes)), d = dy[g] * param(r.p, kParams, g, u);
        C* gain = r.dp + g * r.ld + u;
        C* bias = r.dp + (3 + g) * r.ld + u;
        store(gain, load(gain, lanes) + dy[g] * a, lanes);
        store(bias, load(bias, lanes) + dy[g], lanes);
        sum += d, sum_a += d * a;
        store(r.dx + g * r.ld + u, d, lanes);
      }
      store(r.dh_prev + u, dh * (1 - update), lanes);
    });
    const C mean = sum_of_lanes<C>(sum) / C(3 * H), mean_a = sum_of_lanes<C>(sum_a) / C(3 * H);
    each_block<C>(H, [&](int64_t u, int lanes) {
      for (int g = 0; g < 3; ++g) {
        const V a = norm(kept(3 + g, u, lanes));
        const V d = norm.scale * (load(r.dx + g * r.ld + u, lanes) - mean - a * mean_a);
        store(r.dx + g * r.ld + u, d, lanes);
        store(r.da + g * H + u, d, lanes);
      }
    });
  }

 private:
  template <class C>
  static inline Vec<C> affine(const Moments<C>& norm, Vec<C> a, const C* p, int g, int64_t u) {
    return norm(a) * param(p, kParams, g, u) + param(p, kParams, 3 + g, u);
  }
};

}  // namespace FASTRNN_ISA
}  // namespace fastrnn
