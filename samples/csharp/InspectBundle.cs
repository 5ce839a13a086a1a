// SPDX-License-Identifier: Apache-2.0
using System;
using Polyad;

/// <summary>Shows what a bundle holds, without its base model.</summary>
internal static class InspectBundle
{
    private static int Main(string[] arguments)
    {
        if (arguments.Length != 1)
        {
            Console.Error.WriteLine("usage: InspectBundle BUNDLE.polyad");
            return 2;
        }
        try
        {
            Console.WriteLine(Skillset.Inspect(arguments[0]));
            return 0;
        }
        catch (PolyadException e)
        {
            Console.Error.WriteLine($"{e.Code}: {e.Message} ({e.Detail})");
            return 1;
        }
    }
}
