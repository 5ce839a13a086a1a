// SPDX-License-Identifier: Apache-2.0
namespace Polyad
{
    /// <summary>How to open a backbone.</summary>
    public sealed class BackboneOptions : Options
    {
        /// <summary>The library's defaults.</summary>
        public BackboneOptions()
        {
        }

        /// <summary>Arithmetic: auto, fp32 or bf16.</summary>
        public string Precision
        {
            get => Words("precision");
            set => this["precision"] = value;
        }

        /// <summary>Quantised weights: auto, packed (expanded at each use) or expanded (once, when opening).</summary>
        public string Weights
        {
            get => Words("weights");
            set => this["weights"] = value;
        }
    }
}
