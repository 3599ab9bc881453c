"""Other people's checkpoints: read without running anything, and matched to an architecture of this zoo.

A file is read (`reading`), the mapping of names to tensors is found in it (`nested`), its layers are told apart
(`layers`) and paired with a network's (`matching`), and what does not fit is laid side by side (`comparison`).
`convert` makes a network's weights of it. A file with predictions and no weights becomes an entry too (`external`).

What is proven to compute the same, by the tests' own renderings of these code bases:

| code base | its network | here |
|---|---|---|
| akamaster/pytorch_resnet_cifar10 | `resnet20`, ..., `resnet110` | `resnet20-a`, ..., with the zeros on `both` sides |
| chenyaofo/pytorch-cifar-models | `cifar10_resnet20`, ... | `resnet20`, ... |
| kuangliu/pytorch-cifar | `ResNet18`, with `BasicBlock` | `resnet18` |
| weiaicunzai/pytorch-cifar100 | `resnet18` | `resnet18` |
| xternalz/WideResNet-pytorch | `WideResNet` | `wrn*` |
| szagoruyko/wide-residual-networks | `resnet` (functional; `params` and `stats`) | `wrn*` |
| dyhan0920/PyramidNet-PyTorch | `PyramidNet` | `pyramid*` |
| kakaobrain/fast-autoaugment | `PyramidNet`, which ends with ShakeDrop | `pyramid*`, with `shakedrop=0.5` |
| hysts/pytorch_image_classification | `resnet`, `wrn`, `pyramidnet` | `resnet*`, `wrn*`, `pyramid*` |
| osmr/imgclsmob (pytorchcv) | `resnet20_cifar10`, `wrn*`, `pyramidnet*` | `resnet*`, `wrn*`, `pyramid*` |

What looks alike and is refused: pre-activation ResNets (kuangliu's `PreActResNet18`, hysts' `resnet_preact`), which
have their BatchNorms elsewhere; the WideResNets of meliketoy/wide-resnet.pytorch and of fast-autoaugment, whose
convolutions have biases and whose shortcuts start before the activation; Shake-Shake, whose PyTorch ports (hysts,
owruby) shift the shortcut's image the other way than the source does, which no tensor shows.

What no tensor shows either: mean and std, the order of the classes, BatchNorm's epsilon (1e-5 here), the activation
(FixMatch's WideResNets have xternalz's names and leaky ReLUs), how a parameter-free shortcut downsamples, and
ShakeDrop's probability, which scales branches in evaluation too. That is why an import is judged by its accuracy.
"""
