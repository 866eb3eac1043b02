#pragma once

namespace vlmzoo::app::report {

/// The style sheet of every page. Series of charts are s1 to s4; their colours keep apart for colour-blind eyes.
inline constexpr const char* kStyle = R"css(
:root{color-scheme:light dark;--paper:#fff;--card:#f6f7f9;--ink:#1b1f24;--muted:#59636e;--line:#d5dae0;
--s1:#1f6fcf;--s2:#c2501b;--s3:#16795a;--s4:#7a4cc0;--good:#16795a;--warning:#96620a;--bad:#b8302c}
@media (prefers-color-scheme:dark){:root{--paper:#14171b;--card:#1e2329;--ink:#e7eaee;--muted:#9ea8b3;--line:#3a424b;
--s1:#6aa9f7;--s2:#f2945f;--s3:#52c29b;--s4:#b795f0;--good:#52c29b;--warning:#e0b050;--bad:#f08078}}
*{box-sizing:border-box}
body{margin:0 auto;max-width:72rem;padding:1rem;background:var(--paper);color:var(--ink);
font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif;overflow-wrap:anywhere}
h1{font-size:1.6rem;line-height:1.25;margin:.5rem 0}h2{font-size:1.2rem;margin:2rem 0 .5rem}
p{margin:.5rem 0;max-width:48rem}.subtitle,figcaption,caption{color:var(--muted);font-size:.9rem}
.verdict{border-left:.4rem solid var(--muted);background:var(--card);padding:.75rem 1rem;margin:1rem 0;border-radius:.25rem}
.verdict strong{font-size:1.3rem}.verdict.good{border-color:var(--good)}.verdict.warning{border-color:var(--warning)}
.verdict.bad{border-color:var(--bad)}
.wide{overflow-x:auto;margin:.75rem 0}table{border-collapse:collapse;font-size:.95rem;font-variant-numeric:tabular-nums}
caption{text-align:left;padding-bottom:.25rem}th,td{padding:.3rem .75rem .3rem 0;border-bottom:1px solid var(--line);
text-align:left;vertical-align:top;overflow-wrap:normal}.right{text-align:right}thead th{color:var(--muted);font-weight:600}
tbody th{font-weight:400}
.figures{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,24rem),1fr));gap:1rem;margin:.75rem 0;
align-items:start}figure{margin:0;padding:.5rem;background:var(--card);border-radius:.25rem;break-inside:avoid}
figure svg{display:block;width:100%;max-width:36rem;height:auto;margin:auto}
svg text{font:12px system-ui,-apple-system,"Segoe UI",Roboto,sans-serif;fill:var(--ink)}
svg .muted{fill:var(--muted)}svg .heading{font-weight:600;font-size:13px}svg .grid{stroke:var(--line);stroke-width:1}
svg .axis{stroke:var(--muted);stroke-width:1}svg .dashed{stroke:var(--muted);stroke-width:1;stroke-dasharray:4 3}
svg .whisker{stroke:var(--ink);stroke-width:1.5}
svg polyline{fill:none;stroke-width:2;stroke-linejoin:round}
svg .s1{fill:var(--s1)}svg .s2{fill:var(--s2)}svg .s3{fill:var(--s3)}svg .s4{fill:var(--s4)}
svg polyline.s1{fill:none;stroke:var(--s1)}svg polyline.s2{fill:none;stroke:var(--s2)}
svg polyline.s3{fill:none;stroke:var(--s3)}svg polyline.s4{fill:none;stroke:var(--s4)}
.pictures{display:grid;grid-template-columns:repeat(auto-fill,minmax(11.5rem,1fr));gap:.75rem;margin:.75rem 0}
.picture{background:var(--card);border-radius:.25rem;padding:.5rem;font-size:.85rem;line-height:1.35;
border-top:.2rem solid var(--line);break-inside:avoid}.picture img{display:block;max-width:100%;margin:0 auto .4rem}
.picture.good{border-color:var(--good)}.picture.warning{border-color:var(--warning)}.picture.bad{border-color:var(--bad)}
.picture span{display:block}.missing{color:var(--muted);padding:2rem 0;text-align:center}
details{margin:.75rem 0}summary{cursor:pointer;font-weight:600}
pre{background:var(--card);padding:.75rem;border-radius:.25rem;font-size:.8rem;overflow-x:auto;white-space:pre-wrap}
@media print{:root{color-scheme:light;--paper:#fff;--card:#fff;--ink:#000;--muted:#444;--line:#bbb;--s1:#1f6fcf;
--s2:#c2501b;--s3:#16795a;--s4:#7a4cc0;--good:#16795a;--warning:#96620a;--bad:#b8302c}
body{max-width:none;padding:0;font-size:11pt}h2{break-after:avoid}
*{-webkit-print-color-adjust:exact;print-color-adjust:exact}
details::details-content{content-visibility:visible;display:block;block-size:auto}}
)css";

}  // namespace vlmzoo::app::report
